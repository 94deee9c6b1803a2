"""Everything that may be asked of the node (implements edge.api.control.plane.ControlPlane).

What changes something is put into words (base.actions) and left to `init.acting`; what only looks is answered here.
"""

from __future__ import annotations

from thaloom.init.aliasing import Aliasing
from thaloom.init.syscalls.access import AccessCalls
from thaloom.init.syscalls.documents import DocumentCalls
from thaloom.init.syscalls.jobs import JobCalls
from thaloom.init.syscalls.models import ModelCalls
from thaloom.init.syscalls.node import NodeCalls
from thaloom.init.syscalls.past import PastCalls
from thaloom.init.syscalls.secrets import SecretCalls
from thaloom.init.syscalls.services import ServiceCalls


class Syscalls(NodeCalls, ModelCalls, SecretCalls, ServiceCalls, DocumentCalls, JobCalls, AccessCalls, PastCalls):
    """Everything here may raise a leaf of ThaloomError, as its ControlPlane says."""

    @property
    def aliases(self) -> Aliasing:
        return self._node.aliasing
