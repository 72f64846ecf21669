"""The one Definitions object that Dagster loads."""

from vpp_pipeline.defs.build import build_defs
from vpp_pipeline.runtime import Runtime
from vpp_pipeline.settings import Settings

defs = build_defs(Runtime.of(Settings.from_environment()))
