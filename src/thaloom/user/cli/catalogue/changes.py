"""Sentences about what was done: plans, history, documents, the journal."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {
    "applied.created": ("{subject} created", "{subject} 已创建"),
    "applied.changed": ("{subject} changed", "{subject} 已更改"),
    "applied.removed": ("{subject} removed", "{subject} 已删除"),
    "applied.unchanged": ("{subject} unchanged", "{subject} 未变"),
    "applied.action": ("take it back: thaloom undo {id}", "撤销：thaloom undo {id}"),
    "apply.none": ("no documents in {files}", "{files} 中没有文档"),
    "wait.done": ("{name} is {condition}", "{name}：{condition}"),
    "wait.late": ("{name} is not {condition} in time ({why})", "{name} 未能及时达到 {condition}（{why}）"),
    "plan.head": ("{kind}, risk {risk}", "{kind}，风险：{risk}"),
    "plan.several_changed": (
        "what would be done now to all of these is not what was approved",
        "现在对它们的变更与批准的计划不一致",
    ),
    "plan.nothing": ("nothing changes", "没有变更"),
    "plan.touches": ("touches {subject}", "触及 {subject}"),
    "plan.undo": ("can be undone ({kind})", "可以撤销（{kind}）"),
    "plan.no_undo": ("cannot be undone: {why}", "不能撤销：{why}"),
    "plan.approve": ("to do just this: --plan {digest}", "仅执行此计划：--plan {digest}"),
    "history.none": ("Nothing was done yet.", "尚无变更。"),
    "history.none_refused": ("Nothing was refused.", "尚无被拒绝的请求。"),
    "explain.untold": ("and {count} more before it that are not listed", "此前另有 {count} 次未逐一列出"),
    "explain.head": ("{kind} by {by}, {when}: {ending}", "{kind}，由 {by} 于 {when} 发起：{ending}"),
    "explain.undoes": ("it undid {id}", "它撤销了 {id}"),
    "explain.resumed": ("a later daemon brought it to its end", "由之后的守护进程收尾"),
    "explain.error": ("{message} [{code}]", "{message} [{code}]"),
    "explain.later": ("cannot be undone any more, after it came: {later}", "已不能撤销，之后又有：{later}"),
    "explain.undo": ("undo it: thaloom undo {id}", "撤销：thaloom undo {id}"),
    "undo.done": ("{id} is undone, by {by}", "{id} 已由 {by} 撤销"),
    "approve.bad": (
        "a digest has 64 hexadecimal digits; a time is at most a day",
        "摘要为 64 位十六进制数；时长最多一天",
    ),
    "approve.done": ("approved for {duration}, once", "已批准，{duration} 内有效一次"),
    "audit.sound": (
        "{count} entries ({first} to {last}) are as they were written",
        "{count} 条（{first} 至 {last}）均与写入时一致",
    ),
    "audit.unsealed": ("not checked: {count} entries older than the chain", "未检查：{count} 条早于日志链"),
    "audit.broken": ("the journal is not as it was written: {count} faults", "日志与写入时不一致：{count} 处"),
    "audit.keep": ("Keep this where who can write to the node cannot.", "请保存在能改动本节点者无法触及之处。"),
    "audit.no_checkpoint": ("{file} holds no checkpoint", "{file} 中没有检查点"),
    "fault.altered": ("entry {entry} was altered", "第 {entry} 条被改动"),
    "fault.missing": ("entries from {entry} on are missing", "自第 {entry} 条起有缺失"),
    "fault.added": ("entries from {entry} on were added", "自第 {entry} 条起有添加"),
    "fault.mark": (
        "the chain was moved or broken at entry {entry}, or the node's key is another",
        "日志链在第 {entry} 条处被移动或断开，或节点密钥已更换",
    ),
    "fault.dropped": (
        "the checkpoint at entry {entry} is older than what is kept",
        "检查点（第 {entry} 条）早于现存日志",
    ),
    "fault.not_through": (
        "the chain does not lead through the checkpoint at entry {entry}: it was put back or made anew",
        "日志链不经过检查点（第 {entry} 条）：已被回退或重造",
    ),
}
