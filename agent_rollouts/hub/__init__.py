"""Publishing a dataset on the Hub: private unless told otherwise, checked before a byte leaves, all or nothing.

    published = publish("my-rollouts", "me/my-rollouts")              # a finished dataset
    distill_to_hub(files, Options(), "me/my-rollouts")                # or what is new of files
    revoke(["3f2c…"], "me/my-rollouts")

This is the only package that writes to the network. A push is one commit on top of the head that it was planned for;
when somebody else was faster, it is planned again for theirs. Other configs, other splits, other files and the text
that others wrote in the card stay. Files of a split that are no longer part of it go in the same commit.
Whole sessions, where the dataset has any, follow in one commit to a repository beside it, `REPO-sessions`.
"""

from __future__ import annotations

from agent_rollouts.hub.growing import Distilled, distill_to_hub
from agent_rollouts.hub.push import Published, publish
from agent_rollouts.hub.revoke import Revoked, revoke

__all__ = ["Distilled", "Published", "Revoked", "distill_to_hub", "publish", "revoke"]
