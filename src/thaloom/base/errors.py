"""Every error a user can meet, in one tree.

    ThaloomError
    ├── Refused                 the caller can mend the request             fault: caller
    │   ├── BadRequest  BadParameter  PromptTooLong  TooLarge  MethodNotAllowed
    │   ├── NotFound: ModelNotFound  ServiceNotFound  AliasNotFound  DeviceNotFound  UnknownPath
    │   │             NotKept  KeyNotFound  TenantNotFound  ActionNotFound  DocumentNotFound
    │   │             JobNotFound
    │   ├── Conflict: AlreadyRunning  PortTaken  NameTaken  ModelInUse  FileInUse  RevisionConflict  WrongState
    │   │             PlanChanged  NothingToUndo  QuotaExceeded
    │   ├── Unauthorized  Forbidden  ApprovalNeeded  AirGapped  NotFromAfar  HttpsNeeded
    │   ├── BodyLate  EncodingNotRead
    │   └── NotServable
    ├── Untrusted               the data is not what it says it is          fault: caller
    │   ├── CorruptObject  UnsafeFormat  MalformedFile  UntrustedSource  CertificateUnusable
    │   ├── UnknownAuthority  WrongFingerprint  WrongHostName  CertificateExpired
    ├── Unavailable             wait and try again                          fault: nobody
    │   ├── QueueFull  RateLimited  BudgetSpent  TooManyConnections  ServiceLoading  NodeNotRunning
    │   ├── SourceUnavailable
    ├── HostShort               this machine lacks something                fault: host
    │   ├── DiskFull  OutOfMemory  DeviceLost  DriverUnavailable  StateUnusable  NotEnforceable
    │   ├── EncryptionKeyMissing  EncryptionKeyWrong  CertificateMissing
    └── Broken                  we failed                                   fault: thaloom
        ├── WorkerLost  ServiceFailed  DeadlineExceeded  NotVerified  InternalError

Each leaf has a stable `code`, one HTTP status, one exit code and one help page (docs/errors.md#<code>), says
whose fault it is, and whether and when to try again. `assert` is for our own invariants; users get one of these.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

Fault = Literal["caller", "host", "thaloom", "nobody"]


class ThaloomError(Exception):
    """Base of the tree; raise a leaf.

    `param` names the offending field of a request; `retry_after_s` is set when waiting helps; `details` are
    facts for machines (both lengths of a prompt, bytes needed and free ...), JSON values only.
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    fault: ClassVar[Fault] = "thaloom"
    retryable: ClassVar[bool] = False

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: float | None = None, **details: Any
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.details = details

    @property
    def help_page(self) -> str:
        return f"docs/errors.md#{self.code.replace('_', '-')}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data that survives a process border; `from_dict` gives the same leaf back."""
        return {
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "retry_after_s": self.retry_after_s,
            "details": self.details,
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> ThaloomError:
        leaf = ERRORS.get(data.get("code", ""), InternalError)
        return leaf._restore(data)

    @classmethod
    def _restore(cls, data: dict[str, Any]) -> Self:
        return cls(
            data.get("message", "unknown error"),
            param=data.get("param"),
            retry_after_s=data.get("retry_after_s"),
            **(data.get("details") or {}),
        )


class Refused(ThaloomError):
    http_status, exit_code, fault = 400, 2, "caller"


class BadRequest(Refused):
    """The request cannot be read at all (bad JSON, wrong content type)."""

    code = "bad_request"


class BadParameter(Refused):
    """One field is wrong; `param` names it."""

    code = "bad_parameter"


class PromptTooLong(Refused):
    """The prompt and the tokens asked for exceed the context. Nothing is ever truncated."""

    code = "prompt_too_long"


class TooLarge(Refused):
    """The body or the headers of a request exceed what the door reads; the message names both sizes."""

    code = "too_large"
    http_status = 413


class BodyLate(Refused):
    """The body of a request did not arrive in time; the connection is closed. Send it again, faster."""

    code = "body_late"
    http_status, retryable = 408, True


class EncodingNotRead(Refused):
    """The body is compressed in a way the door does not read; the message names those it does."""

    code = "encoding_not_read"
    http_status = 415


class MethodNotAllowed(Refused):
    """The path exists, but not with this HTTP method."""

    code = "method_not_allowed"
    http_status = 405


class NotFound(Refused):
    http_status, exit_code = 404, 3


class ModelNotFound(NotFound):
    code = "model_not_found"


class ServiceNotFound(NotFound):
    code = "service_not_found"


class AliasNotFound(NotFound):
    code = "alias_not_found"


class DeviceNotFound(NotFound):
    code = "device_not_found"


class KeyNotFound(NotFound):
    code = "key_not_found"


class JobNotFound(NotFound):
    """No job of this name is known; it may have been forgotten some time after its end, as was wished."""

    code = "job_not_found"


class TenantNotFound(NotFound):
    code = "tenant_not_found"


class ActionNotFound(NotFound):
    """The journal has no such action: it never was, or it is older than what is kept."""

    code = "action_not_found"


class UnknownPath(NotFound):
    """Nothing is served under this path; docs and `/` list what is."""

    code = "unknown_path"


class NotKept(NotFound):
    """No response, file or batch with this id is kept here: never was, was deleted, or gave way to newer ones."""

    code = "not_kept"


class DocumentNotFound(NotFound):
    """No document of that kind and name is among what is wished (thaloom export shows all)."""

    code = "document_not_found"


class Conflict(Refused):
    http_status, exit_code = 409, 4


class AlreadyRunning(Conflict):
    """A node with this THALOOM_HOME is up already."""

    code = "already_running"


class PortTaken(Conflict):
    """Another program listens on the door's port."""

    code = "port_taken"


class NameTaken(Conflict):
    code = "name_taken"


class ModelInUse(Conflict):
    code = "model_in_use"


class FileInUse(Conflict):
    """A batch that is not over reads the file; cancel it, or wait for its end."""

    code = "file_in_use"


class RevisionConflict(Conflict):
    """Somebody changed it since the caller looked; look again and repeat."""

    code = "revision_conflict"


class PlanChanged(Conflict):
    """What would be done now is not what was approved, or the time the approval was given for is over. Look at the plan
    again."""

    code = "plan_changed"


class NothingToUndo(Conflict):
    """The action cannot be undone; the message says why."""

    code = "nothing_to_undo"


class QuotaExceeded(Conflict):
    """The tenant has as much as its quota allows; the message names which, and both figures."""

    code = "quota_exceeded"


class WrongState(Conflict):
    """What was asked cannot be done to it as it is: it is over already, or is not of the kind that has an end."""

    code = "wrong_state"


class Unauthorized(Refused):
    """This node asks for a key, and none was sent, or one it does not know, or one that has expired."""

    code = "unauthorized"
    http_status, exit_code = 401, 8


class Forbidden(Refused):
    """A foreign Host or Origin, a bind beyond loopback, an operation the caller may not do."""

    code = "forbidden"
    http_status, exit_code = 403, 8


class ApprovalNeeded(Refused):
    """Who asks may not do this without a person's leave for just this plan."""

    code = "approval_needed"
    http_status, exit_code = 403, 8


class AirGapped(Refused):
    """This node makes no outgoing calls; the message names the one that would have gone out."""

    code = "air_gapped"
    http_status, exit_code = 403, 8


class NotFromAfar(Refused):
    """The command works on the node's own machine only, and THALOOM_URL names another: log in there, or unset it."""

    code = "not_from_afar"


class HttpsNeeded(Refused):
    """What listens there speaks TLS, and was asked by http://: ask by https://. What was asked went over the network
    for everybody to read; no key did, which this client never shows by http:// beyond its own machine."""

    code = "https_needed"


class NotServable(Refused):
    """The model is sound, but nothing here can run it (unknown architecture, no tokenizer ...)."""

    code = "not_servable"
    http_status = 422


class Untrusted(ThaloomError):
    http_status, exit_code, fault = 422, 6, "caller"


class CorruptObject(Untrusted):
    """Stored or imported bytes do not have the digest or length they should have; names the file."""

    code = "corrupt_object"


class UnsafeFormat(Untrusted):
    """A format that can run code on load (pickle and its kin)."""

    code = "unsafe_format"


class MalformedFile(Untrusted):
    """A file of a known format that breaks its rules; names the file and the rule."""

    code = "malformed_file"


class UntrustedSource(Untrusted):
    """A hub answered what no honest one answers (a length that is not true, a path that leaves its folder, a redirect
    to where it may not lead ...). `details` name the rule it broke; nothing of it was kept."""

    code = "untrusted_source"


class CertificateUnusable(Untrusted):
    """A certificate or its key that the door could not show: not PEM, not of each other's, expired, without a name, or
    weak. The message names the file and the reason; the one in force stays."""

    code = "certificate_unusable"


class UnknownAuthority(Untrusted):
    """Nobody this client knows has signed the node's certificate. Take the node's own (`thaloom cert show --pem`, on
    the node) for THALOOM_CA, or its fingerprint for THALOOM_FINGERPRINT. Nothing was sent."""

    code = "unknown_authority"
    http_status = 502


class WrongFingerprint(Untrusted):
    """The node's certificate is not the one that is pinned: it was renewed, or somebody stands in between. Compare it
    with `thaloom cert show` on the node. Nothing was sent."""

    code = "wrong_fingerprint"
    http_status = 502


class WrongHostName(Untrusted):
    """The node's certificate is for other names than the one it was asked by. Ask by one of its names, or have it made
    for this one (`thaloom cert make --name`, on the node). Nothing was sent."""

    code = "wrong_host_name"
    http_status = 502


class CertificateExpired(Untrusted):
    """The node's certificate does not hold now: it has expired (`thaloom cert renew`, on the node), or the clock of one
    of the two is wrong. Nothing was sent."""

    code = "certificate_expired"
    http_status = 502


class Unavailable(ThaloomError):
    http_status, exit_code, fault, retryable = 503, 5, "nobody", True


class QueueFull(Unavailable):
    code = "queue_full"
    http_status = 429


class RateLimited(Unavailable):
    """The key has used up one of its limits for now; the message names which, and `Retry-After` says when it will be
    enough again."""

    code = "rate_limited"
    http_status = 429


class BudgetSpent(Unavailable):
    """Who asks has changed as much as it may within an hour."""

    code = "budget_spent"
    http_status = 429


class TooManyConnections(Unavailable):
    """The door holds as many connections as it may, from this client or altogether. Close some, or reuse them."""

    code = "too_many_connections"


class ServiceLoading(Unavailable):
    code = "service_loading"


class NodeNotRunning(Unavailable):
    code = "node_not_running"


class SourceUnavailable(Unavailable):
    """Another machine that we asked does not answer, or not now. What a pull has got is kept."""

    code = "source_unavailable"


class HostShort(ThaloomError):
    http_status, exit_code, fault = 507, 7, "host"


class DiskFull(HostShort):
    code = "disk_full"


class OutOfMemory(HostShort):
    """The ledger cannot hold what was asked for; `details` say what is needed and what is free."""

    code = "out_of_memory"


class DeviceLost(HostShort):
    code = "device_lost"
    http_status = 503


class DriverUnavailable(HostShort):
    """A driver cannot work on this host; the message says because of what."""

    code = "driver_unavailable"
    http_status = 503


class StateUnusable(HostShort):
    """The node's own files cannot be used: the database is damaged, or a newer Thaloom wrote it, or a folder cannot be
    written. They are left as they are, for a person to look at."""

    code = "state_unusable"
    http_status = 503


class EncryptionKeyMissing(HostShort):
    """A model is encrypted, or is to be, and this node was given no key for it; the message says where one may be."""

    code = "encryption_key_missing"
    http_status = 503


class EncryptionKeyWrong(HostShort):
    """The node was given a key that does not open its key ring, or the ring is another store's. Nothing was changed."""

    code = "encryption_key_wrong"
    http_status = 503


class CertificateMissing(HostShort):
    """The door is to speak TLS, and there is no certificate: `thaloom cert make`, or name one in config.toml."""

    code = "certificate_missing"
    http_status = 503


class NotEnforceable(HostShort):
    """A limit or a wall was asked for that this host cannot enforce; the message names it and the reason. It is never
    left out quietly: `thaloom doctor host` lists what holds here."""

    code = "not_enforceable"


class Broken(ThaloomError):
    http_status, exit_code, fault = 500, 1, "thaloom"


class WorkerLost(Broken):
    """The worker died with this request on it. The service heals by itself; the request may be sent again."""

    code = "worker_lost"
    http_status, retryable = 502, True


class ServiceFailed(Broken):
    """The service cannot start; the message ends with the reason its worker gave."""

    code = "service_failed"
    http_status = 503


class NotVerified(Broken):
    """Something was done, and a look at the machine afterwards does not show it. Nothing more is known."""

    code = "not_verified"


class DeadlineExceeded(Broken):
    code = "deadline_exceeded"
    http_status, retryable = 504, True


class InternalError(Broken):
    code = "internal_error"


def _leaves(parent: type[ThaloomError]) -> list[type[ThaloomError]]:
    found = []
    for child in parent.__subclasses__():
        found += [child] if "code" in vars(child) else []
        found += _leaves(child)
    return found


ERRORS: dict[str, type[ThaloomError]] = {leaf.code: leaf for leaf in _leaves(ThaloomError)}
"""Every leaf by its code."""

EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "Thaloom failed",
    2: "the request was wrong",
    3: "no such thing",
    4: "in conflict with what is there",
    5: "not available now; try again",
    6: "the data cannot be trusted",
    7: "this machine lacks something",
    8: "not allowed",
    130: "interrupted",
}
