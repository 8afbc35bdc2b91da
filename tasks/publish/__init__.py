"""An annotated dataset on the hub: `check_target` before any work, `plan_upload` (a dry run shows it), `publish`."""

from tasks.publish.plan import UploadPlan, plan_as_it_is, plan_upload
from tasks.publish.target import Target, check_target
from tasks.publish.upload import Published, publish

__all__ = ["Published", "Target", "UploadPlan", "check_target", "plan_as_it_is", "plan_upload", "publish"]
