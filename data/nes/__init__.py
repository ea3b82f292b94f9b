"""Music of the Nintendo Entertainment System: four voices on one chip, as files, scores, sound and pictures.

drawing.py  a score as a piano roll (PNG, SVG) and as a page that plays it (HTML); page.html is its template
"""
