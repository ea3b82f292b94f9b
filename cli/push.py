"""Push an exported repository to the Hub, in one commit.

    seqzoo push exports/my-model someone/my-model --private
    seqzoo push exports/my-model someone/my-model --revision v2

The token is that of `hf auth login` or of HF_TOKEN. A repository that does not exist is made; a branch has to exist:
`hf repos branch create someone/my-model v2`. Refused, unless forced: a folder without model card, without the code
that its model needs, or with a pickle in it. checkpoints/, logs/ and hidden files are never pushed.
"""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", type=Path, help="what `seqzoo export` wrote")
    parser.add_argument("repo_id", metavar="REPO_ID", help="user/name on the Hub")
    parser.add_argument(
        "--private", action="store_true", help="make a private repository; one that exists and is public is refused"
    )
    parser.add_argument("--revision", metavar="BRANCH", help="a branch that exists (default: main)")
    parser.add_argument("--force", action="store_true", help="push in spite of what the folder lacks or holds")


def run(args: argparse.Namespace) -> int:
    from seqzoo.hub_cards.publish import push

    print(push(args.folder, args.repo_id, private=args.private, revision=args.revision, force=args.force))
    return 0
