"""The catalogue: key -> (English, Chinese). A test holds both to the same placeholders, and every verb to having texts.

Keys: `verb.*` one line of what a verb does, `more.*` what else its help says, `examples.*`, `argument.*` and `option.*`
(`option.<verb>.<name>` where a verb means it in its own way), `head.*` headings, `title.*` and `hint.*` for every code
of base.errors, and one key a sentence for the rest.
"""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {
    # -- help
    "help.usage": ("Usage:", "用法："),
    "help.options": ("Options", "选项"),
    "help.arguments": ("Arguments", "参数"),
    "help.examples": ("Examples", "示例"),
    "help.required": ("required", "必填"),
    "section.answers": ("Answers", "推理服务"),
    "section.models": ("Models", "模型"),
    "section.node": ("The node", "节点"),
    "section.more": ("More", "其他"),
    "section.device": ("Devices", "设备"),
    "section.alias": ("Aliases", "别名"),
    "section.token": ("Keys", "密钥"),
    "section.tenant": ("Tenants", "租户"),
    "section.jobs": ("Jobs", "任务"),
    "section.job": ("Jobs", "任务"),
    "section.changes": ("Changes", "变更"),
    "section.documents": ("Documents", "文档"),
    "section.audit": ("The journal", "日志链"),
    "section.doctor": ("Checks", "检查"),
    # -- doctor
    "doctor.seen": (
        "Linux {kernel} on {machine}, seen by user {uid}; control groups {cgroups}",
        "Linux {kernel}（{machine}），由用户 {uid} 查看；控制组 {cgroups}",
    ),
    "doctor.node": (
        "Limits as they hold for the node that runs (process {pid}).",
        "限额按运行中的节点（进程 {pid}）查明。",
    ),
    "doctor.no_node": (
        "No node runs here: limits as they would hold for one that this shell starts.",
        "节点未运行：限额按由当前 shell 启动的节点查明。",
    ),
    "doctor.yes": ("yes", "是"),
    "doctor.no": ("no", "否"),
    "doctor.kind.wall": ("WALL", "隔离墙"),
    "doctor.kind.limit": ("LIMIT", "限额"),
    "doctor.kind.latency": ("LATENCY", "延迟"),
    "doctor.kind.host": ("THIS HOST", "本机"),
    "doctor.name.view": ("own view of files", "独立的文件视图"),
    "doctor.name.network": ("own network", "独立网络"),
    "doctor.name.ipc": ("own queues", "独立的进程间队列"),
    "doctor.name.processes": ("others' processes out of reach", "无法触及其他进程"),
    "doctor.name.landlock": ("second wall around files", "文件的第二道墙"),
    "doctor.name.syscalls": ("fewer system calls", "限制系统调用"),
    "doctor.name.privileges": ("no privileges", "无特权"),
    "doctor.name.cpu": ("processor time", "处理器时间"),
    "doctor.name.cpu_weight": ("processor share", "处理器份额"),
    "doctor.name.cpus": ("which processors", "指定处理器"),
    "doctor.name.memory": ("memory", "内存"),
    "doctor.name.swap": ("swap", "交换空间"),
    "doctor.name.pids": ("processes and threads", "进程与线程数"),
    "doctor.name.io": ("disk input and output", "磁盘读写"),
    "doctor.name.disk": ("bytes on disk", "磁盘占用"),
    "doctor.name.huge_pages": ("huge pages", "大页"),
    "doctor.name.memory_bandwidth": ("memory bandwidth", "内存带宽"),
    "doctor.name.turns": ("sooner turns", "更快轮到"),
    "doctor.name.batch": ("giving way", "让出处理器"),
    "doctor.name.real_time": ("real time", "实时调度"),
    "doctor.name.isolated_cpus": ("processors set apart", "专用处理器"),
    "doctor.name.interrupts": ("interrupts moved away", "中断迁移"),
    "doctor.name.pressure": ("pressure readings", "压力读数"),
    "doctor.name.huge_page_pools": ("huge page pools", "大页池"),
    "doctor.name.user_namespaces": ("user namespaces", "用户命名空间"),
    "doctor.name.memory_encryption": ("memory encryption", "内存加密"),
    "doctor.name.resctrl": ("cache and bandwidth control", "缓存与带宽控制"),
    # -- verbs
    "verb.thaloom": (
        "Finds every accelerator of this machine, keeps models, and serves them.",
        "发现本机的全部算力设备，保管模型，并提供推理服务。",
    ),
    "more.thaloom": (
        'Begin with: thaloom run tiny "The socket option"',
        '从这里开始：thaloom run tiny "The socket option"',
    ),
    "verb.run": ("Ask a model; starts a node where none runs", "向模型提问；节点未运行时自动启动"),
    "more.run": (
        "Without a prompt, on a terminal, it is a conversation: /clear forgets it, /bye or Ctrl-D ends it, Ctrl-C "
        "stops an answer. The prompt may come from a pipe. The answer goes to standard output, the rest to "
        "standard error.",
        "在终端中不带提示词即进入对话：/clear 清空上下文，/bye 或 Ctrl-D 结束，Ctrl-C 停止当前回答。"
        "提示词也可以来自管道。回答写到标准输出，其余信息写到标准错误。",
    ),
    "examples.run": (
        'thaloom run tiny "The socket option"\nthaloom run tiny --max-tokens 64 < prompt.txt\nthaloom run tiny',
        'thaloom run tiny "The socket option"\nthaloom run tiny --max-tokens 64 < prompt.txt\nthaloom run tiny',
    ),
    "verb.serve": ("Serve a model through the HTTP API", "通过 HTTP API 提供模型服务"),
    "more.serve": (
        "The wish is kept: the service comes back after a restart of the node, until `thaloom stop`. Serving a name "
        "again changes the wish.",
        "该意愿会被保存：节点重启后服务自动恢复，直到执行 thaloom stop。对同一名称再次 serve 即更改意愿。",
    ),
    "examples.serve": (
        "thaloom serve tiny\nthaloom serve my-model --name chat --context 4096 --kv-bytes 2GiB\n"
        "thaloom serve my-model --weights int8\nthaloom serve ./my-model.gguf --engine llama.cpp",
        "thaloom serve tiny\nthaloom serve my-model --name chat --context 4096 --kv-bytes 2GiB\n"
        "thaloom serve my-model --weights int8\nthaloom serve ./my-model.gguf --engine llama.cpp",
    ),
    "verb.apply": ("Have it as documents say: all of it, or nothing", "按文档变更：全部完成，或什么都不做"),
    "more.apply": (
        "A document is the whole of what is wished for one thing: what it leaves out has its default. Where it bears "
        "metadata.version, it is refused if somebody changed the thing meanwhile. --prune removes what bears the label "
        "and is not among the documents. How documents are written: docs/documents.md.",
        "一份文档是对一个对象的全部要求：省略之处取默认值。若带有 metadata.version，而该对象期间已被更改，则会拒绝。"
        "--prune 删除带有该标签而不在这些文档之中的对象。文档的写法见 docs/documents.md。",
    ),
    "examples.apply": (
        "thaloom apply -f services.yaml\nthaloom apply -f node/ --prune app=chat --dry-run\n"
        "thaloom export | thaloom apply -f -",
        "thaloom apply -f services.yaml\nthaloom apply -f node/ --prune app=chat --dry-run\n"
        "thaloom export | thaloom apply -f -",
    ),
    "verb.diff": ("Show what applying documents would change", "显示应用这些文档会有什么变更"),
    "more.diff": (
        "Exit code 0: nothing. 1: something. Higher: it would be refused.",
        "退出码 0：没有变更；1：有变更；更大：会被拒绝。",
    ),
    "verb.export": ("Print what is wished for as documents", "以文档形式输出全部要求"),
    "more.export": (
        "As YAML, or with --json as a JSON list; `thaloom apply -f` reads either and changes nothing by it.",
        "输出 YAML；加 --json 则为 JSON 列表。二者都可由 thaloom apply -f 读取，且不会引起变更。",
    ),
    "verb.wait": ("Return when a condition is true", "等到某个条件成立"),
    "more.wait": (
        "CONDITION is ready, gone, or whatever condition `thaloom export --status` shows. A name alone is a service's.",
        "CONDITION 为 ready、gone，或 thaloom export --status 显示的任一条件。单独的名称指服务。",
    ),
    "argument.export.names": ("kinds or documents; none: all", "种类或文档；省略：全部"),
    "argument.wait.names": ("services, or documents as workspace/data", "服务，或文档，例如 workspace/data"),
    "option.files": (
        "documents: a file, a folder of them, or - for standard input",
        "文档：文件、文件夹，或 - 表示标准输入",
    ),
    "option.prune": (
        "also remove what bears this label and is not among the documents",
        "并删除带有此标签而不在文档之中的对象",
    ),
    "option.labels": ("only what bears this label", "只列出带有此标签的"),
    "option.pinned": (
        "with metadata.version, so that applying refuses what was changed meanwhile",
        "带上 metadata.version，应用时若期间有更改则拒绝",
    ),
    "option.export.status": ("with conditions and figures", "带上条件与数据"),
    "option.wanted": ("which condition is waited for", "等待哪个条件"),
    "option.apply.wait": ("wait until all of it is ready", "等到全部就绪"),
    "applied.created": ("{subject} created", "{subject} 已创建"),
    "applied.changed": ("{subject} changed", "{subject} 已更改"),
    "applied.removed": ("{subject} removed", "{subject} 已删除"),
    "applied.unchanged": ("{subject} unchanged", "{subject} 未变"),
    "applied.action": ("take it back: thaloom undo {id}", "撤销：thaloom undo {id}"),
    "apply.none": ("no documents in {files}", "{files} 中没有文档"),
    "wait.done": ("{name} is {condition}", "{name}：{condition}"),
    "wait.late": ("{name} is not {condition} in time ({why})", "{name} 未能及时达到 {condition}（{why}）"),
    "usage.no_label": ("{word!r} is not a label (as app=chat)", "{word!r} 不是标签（例如 app=chat）"),
    "verb.ps": ("List services, what they hold and what they do", "列出服务及其占用与负载"),
    "verb.stop": ("Serve a model no longer", "停止服务"),
    "verb.logs": ("Show the log of a service, the daemon or the door", "查看服务、守护进程或门户的日志"),
    "verb.history": ("What was done to this machine, and by whom", "本机做过哪些变更，由谁发起"),
    "more.history": (
        "Newest first. SUBJECT is what was changed or touched, as service/chat.",
        "最新的在前。SUBJECT 是被更改或触及的对象，例如 service/chat。",
    ),
    "verb.explain": (
        "What an action did, what came of it, and whether it can be undone",
        "说明一次操作做了什么、结果如何、能否撤销",
    ),
    "verb.undo": ("Bring back what an action changed", "撤销一次操作"),
    "verb.approve": (
        "Give leave for one plan to whoever may not carry it out by itself",
        "批准一份计划，交由无权自行执行者执行一次",
    ),
    "verb.audit": ("Whether the journal is as it was written", "检查日志链是否完整未被改动"),
    "verb.audit.verify": ("Check every entry of the journal against its seal", "逐条核对日志的封印"),
    "more.audit.verify": (
        "With a checkpoint that was kept elsewhere it also shows a whole journal that was put back or made anew.",
        "配合存放在别处的检查点，还能发现整个日志被回退或重造。",
    ),
    "verb.audit.checkpoint": (
        "Print where the journal ends now, to be kept elsewhere",
        "输出日志链的当前终点，供另处保存",
    ),
    "argument.subject": ("what was changed, as service/chat", "被更改的对象，例如 service/chat"),
    "argument.action": ("id of an action (thaloom history)", "操作的编号（见 thaloom history）"),
    "argument.digest": ("digest of a plan (--dry-run shows it)", "计划的摘要（--dry-run 会显示）"),
    "option.refused": ("what was asked for in vain, and nothing else", "只列出被拒绝的请求"),
    "option.by": ("only what this one asked for, as person:local", "只列出由其发起的，例如 person:local"),
    "option.limit": ("so many at most", "最多列出多少条"),
    "option.valid_for": ("for how long (10m, 1h)", "有效时长（10m、1h）"),
    "option.file": ("a checkpoint that was kept elsewhere", "存放在别处的检查点文件"),
    "option.dry_run": ("show exactly what would be done; do nothing", "只显示将要做什么，不执行"),
    "option.plan": (
        "only if it would do exactly this plan (see --dry-run)",
        "仅当与该计划完全一致时才执行",
    ),
    "head.id": ("ID", "编号"),
    "head.action": ("ACTION", "操作"),
    "head.subject": ("SUBJECT", "对象"),
    "head.by": ("BY", "发起者"),
    "head.ending": ("ENDING", "结果"),
    "risk.low": ("low", "低"),
    "risk.medium": ("medium", "中"),
    "risk.high": ("high", "高"),
    "ending.running": ("running", "进行中"),
    "ending.done": ("done", "完成"),
    "ending.failed": ("failed", "失败"),
    "ending.undone": ("undone", "未执行"),
    "ending.refused": ("refused", "已拒绝"),
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
    "verb.alias": ("Names that stand for services", "代表服务的别名"),
    "verb.alias.set": ("Let a name stand for services", "让一个名称代表若干服务"),
    "more.alias.set": (
        "Requests for NAME are shared among the services by their weights (default 1). A canary is watched: once it "
        "fails more often, or is slower, than the others, it gets no more requests.",
        "发往 NAME 的请求按权重（默认 1）分给各服务。金丝雀服务受到监视："
        "一旦比其他服务失败更多或更慢，就不再收到请求。",
    ),
    "examples.alias.set": (
        "thaloom alias set chat qwen\nthaloom alias set chat qwen=95 qwen-new=5 --canary qwen-new",
        "thaloom alias set chat qwen\nthaloom alias set chat qwen=95 qwen-new=5 --canary qwen-new",
    ),
    "verb.alias.ls": ("List the aliases", "列出别名"),
    "verb.alias.rm": ("Remove aliases", "删除别名"),
    "verb.pull": ("Bring a model here: from a hub, a folder or a file", "获取模型：来自模型仓库、文件夹或文件"),
    "more.pull": (
        "A folder in Hugging Face layout, a .safetensors, .gguf or .onnx file; or a model of a hub: org/name is at "
        "Hugging Face (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE), ms://org/name at ModelScope (MODELSCOPE_ENDPOINT, "
        "MODELSCOPE_API_TOKEN); @REVISION names a version, :FILE or :Q4_K_M one GGUF file of several. A pull belongs "
        "to the node: Ctrl-C leaves it running, the same command follows it again, `thaloom rm --partial` ends it. "
        "What came is kept over restarts. GGUF, AWQ and GPTQ are converted, and `thaloom show` says what that changed. "
        "Every byte is hashed; formats that can run code on load (pickle and its kin) are refused. `tiny` is the model "
        "that comes with Thaloom.",
        "支持 Hugging Face 布局的文件夹、.safetensors、.gguf 或 .onnx 文件，以及模型仓库："
        "org/name 取自 Hugging Face（HF_ENDPOINT、HF_TOKEN、HF_HUB_OFFLINE），"
        "ms://org/name 取自 ModelScope（MODELSCOPE_ENDPOINT、MODELSCOPE_API_TOKEN）；"
        "@版本 指定版本，:文件 或 :Q4_K_M 指定多个 GGUF 文件之一。"
        "下载由节点执行：Ctrl-C 不会中断它，再次执行同一命令可继续查看，thaloom rm --partial 将其终止。"
        "已下载的部分在重启后保留。"
        "GGUF、AWQ、GPTQ 会被转换，thaloom show 说明其影响。"
        "每个字节都会计算哈希；加载时可能执行代码的格式（pickle 等）一律拒绝。tiny 是随附的模型。",
    ),
    "examples.pull": (
        "thaloom pull org/model\nthaloom pull ms://org/model@v1 --name my-model\nthaloom pull org/model-GGUF:Q4_K_M\n"
        "thaloom pull ./my-model --name my-model\nthaloom pull ./my-model-q4_k_m.gguf\nthaloom pull tiny",
        "thaloom pull org/model\nthaloom pull ms://org/model@v1 --name my-model\nthaloom pull org/model-GGUF:Q4_K_M\n"
        "thaloom pull ./my-model --name my-model\nthaloom pull ./my-model-q4_k_m.gguf\nthaloom pull tiny",
    ),
    "verb.encrypt": ("Keep a model on the disk in cipher only", "将磁盘上的模型加密保存"),
    "more.encrypt": (
        "In its place, or as a copy with --name. AES-256-GCM; opened by the node's master key (`thaloom key`). The "
        "model answers as before; its packed weights are no longer kept, so each start packs them again. The tokenizer "
        "the door uses stays readable to the node's user. What was on the disk in plain is deleted, which a flash disk "
        "may undo: pull with --encrypt what must never be there.",
        "原地加密，或用 --name 生成副本。使用 AES-256-GCM，由节点的主密钥（thaloom key）打开。"
        "模型的回答不变；但不再保存打包后的权重，因此每次启动都要重新打包。"
        "门户使用的分词器仍以明文保存，仅节点用户可读。"
        "原有明文会被删除，但闪存盘可能仍保留：绝不能以明文落盘的模型请用 pull --encrypt 获取。",
    ),
    "examples.encrypt": (
        "thaloom key make\nthaloom encrypt my-model\nthaloom encrypt my-model --name my-model-sealed",
        "thaloom key make\nthaloom encrypt my-model\nthaloom encrypt my-model --name my-model-sealed",
    ),
    "verb.decrypt": ("Keep an encrypted model in plain again", "将加密的模型恢复为明文保存"),
    "option.encrypt.name": (
        "Name of an encrypted copy (default: the model itself).",
        "加密副本的名称（默认：模型本身）。",
    ),
    "option.decrypt.name": (
        "Name of a copy in plain (default: the model itself).",
        "明文副本的名称（默认：模型本身）。",
    ),
    "option.pull.encrypt": (
        "Keep it on the disk in cipher, or in plain (default: encrypt_models of config.toml). Until a download is "
        "whole, what came of it lies in the node's folder in plain.",
        "以密文或明文保存；未下完时为明文",
    ),
    "encrypt.done": ("{name} is encrypted ({size}).", "{name} 已加密（{size}）。"),
    "decrypt.done": ("{name} lies in plain ({size}).", "{name} 已恢复为明文（{size}）。"),
    "head.encrypted": ("encrypted", "已加密"),
    "stage.encrypting": ("encrypting", "正在加密"),
    "stage.decrypting": ("decrypting", "正在解密"),
    "verb.backup": ("Back up the node, while it runs", "备份节点（无需停机）"),
    "more.backup": (
        "Into one file if TARGET ends in .tar, else into a folder: settings, services, keys, journal, and what clients "
        "left here; with --models the models too. Every byte is read back before it counts. Encrypted models stay "
        "encrypted; the master key is never in a backup. Keep backups as you keep passwords.",
        "TARGET 以 .tar 结尾时写成一个文件，否则写成文件夹：配置、服务、密钥、日志账本以及客户端留存的内容；"
        "加 --models 则包含模型。每个字节都会读回校验。"
        "加密的模型保持加密；主密钥从不进入备份。请像保管密码一样保管备份。",
    ),
    "examples.backup": (
        "thaloom backup /mnt/backups/monday.tar\nthaloom backup /mnt/backups/monday --models",
        "thaloom backup /mnt/backups/monday.tar\nthaloom backup /mnt/backups/monday --models",
    ),
    "verb.restore": ("Put a backup back, with the node down", "恢复备份（需先停止节点）"),
    "more.restore": (
        "Read and proved whole before anything is touched, then exchanged with the node's folder in one step: a kill "
        "leaves the old folder or the new one. With --replace the old folder is kept beside, under another name.",
        "先完整读取并校验，再一步替换节点目录：即使中途被强制终止，留下的也只会是旧目录或新目录。"
        "使用 --replace 时，旧目录以另一名称保留在旁边。",
    ),
    "argument.backup.target": ("Where the backup goes: FILE.tar or a folder", "备份位置：FILE.tar 或文件夹"),
    "argument.restore.source": ("A backup: FILE.tar or a folder", "备份：FILE.tar 或文件夹"),
    "option.backup.models": ("The models too.", "包含模型。"),
    "option.restore.replace": ("Put what is there aside.", "将现有目录移到一旁。"),
    "backup.done": ("Backed up {count} files ({size}) to {place}.", "已备份 {count} 个文件（{size}）到 {place}。"),
    "restore.done": ("Restored {count} files ({size}) to {home}.", "已恢复 {count} 个文件（{size}）到 {home}。"),
    "restore.before": ("The folder that was there is kept: {place}", "原目录已保留：{place}"),
    "restore.models_kept": (
        "The backup has no models; those that were there were kept.",
        "备份中没有模型；已保留原有模型。",
    ),
    "stage.backing_up": ("backing up", "备份"),
    "stage.restoring": ("restoring", "恢复"),
    "verb.key": ("The master key of encrypted models", "加密模型的主密钥"),
    "section.key": ("Master key", "主密钥"),
    "verb.key.make": ("Make a master key in the node's folder", "在节点目录中生成主密钥"),
    "more.key.make": (
        "A file `master.key`, readable by you alone. Keep a copy elsewhere: without it encrypted models are lost. Not "
        "needed where config.toml names a master_key_file, where systemd hands one over as a credential "
        "(thaloom.master-key, thaloom.passphrase), or with `thaloom up --passphrase`.",
        "生成仅您本人可读的 master.key 文件。请另存一份：没有它，加密的模型将无法恢复。"
        "若 config.toml 指定了 master_key_file，或由 systemd 以凭据（thaloom.master-key、thaloom.passphrase）传入，"
        "或使用 thaloom up --passphrase，则不需要。",
    ),
    "verb.key.rotate": ("Have encrypted models opened by another master key", "更换打开加密模型的主密钥"),
    "more.key.rotate": (
        "Without an option: a new key in the place of the file in use. No model is written again: the keys of objects "
        "are wrapped by the store's key, and that one by the master key. A kill leaves the old key or the new one.",
        "不带选项：在当前密钥文件的位置换上新密钥。模型不会被重写：对象的密钥由模型库密钥包裹，后者由主密钥包裹。"
        "即使中途被强制终止，生效的也只会是旧密钥或新密钥。",
    ),
    "verb.key.show": ("Show whether encrypted models can be opened, and by what", "显示能否打开加密的模型及所用密钥"),
    "option.key.rotate.key_file": ("A file with 32 random bytes, mode 0600.", "含 32 个随机字节的文件，权限 0600。"),
    "option.key.rotate.passphrase": ("Ask for a passphrase at the terminal.", "在终端询问口令。"),
    "option.passphrase": (
        "Ask at the terminal for the passphrase of encrypted models.",
        "在终端询问加密模型的口令。",
    ),
    "option.passphrase_fd": (
        "Read the passphrase from this descriptor, to its end.",
        "从该文件描述符读取口令，直到结束。",
    ),
    "key.made": (
        "Made {origin}. Keep a copy elsewhere: without it encrypted models are lost.",
        "已生成 {origin}。请另存一份：没有它，加密的模型将无法恢复。",
    ),
    "key.rotated": ("Encrypted models are opened by {origin} from now on.", "从现在起，加密的模型由 {origin} 打开。"),
    "key.no_terminal": (
        "a passphrase is asked for at a terminal, and there is none: use --passphrase-fd",
        "口令需在终端输入，但当前没有终端：请使用 --passphrase-fd",
    ),
    "key.ask": ("Passphrase: ", "口令："),
    "key.ask_again": ("The same again: ", "再次输入："),
    "key.differ": ("the two are not the same", "两次输入不一致"),
    "head.ready": ("opens", "可打开"),
    "head.problem_why": ("why not", "原因"),
    "head.ring": ("key ring", "密钥环"),
    "head.origin": ("master key", "主密钥"),
    "head.key_memory": ("kept in", "保存于"),
    "key.locked": ("{memory}, locked", "{memory}，已锁定"),
    "key.not_locked": ("{memory}, NOT locked: it may be swapped out", "{memory}，未锁定：可能被换出"),
    "verb.cert": ("The certificate that the door shows beyond this machine", "节点在本机之外出示的证书"),
    "section.cert": ("Certificate", "证书"),
    "verb.cert.make": ("Make a certificate for this node", "为本节点生成证书"),
    "more.cert.make": (
        "A key of its own and a certificate signed by itself, for the names and addresses of this machine, in the "
        "node's folder. Clients trust it by its fingerprint (THALOOM_FINGERPRINT) or as a file (`thaloom cert show "
        "--pem`, THALOOM_CA). The door shows it where it listens beyond loopback: `host` in config.toml, or "
        "`thaloom up --host`.",
        "在节点目录中生成独立密钥及自签名证书，包含本机的名称与地址。客户端以指纹（THALOOM_FINGERPRINT）"
        "或文件（thaloom cert show --pem，THALOOM_CA）信任它。"
        "当节点在回环地址之外监听时（config.toml 中的 host，或 thaloom up --host）出示该证书。",
    ),
    "verb.cert.show": ("Show the certificate, its names and until when it holds", "显示证书、其名称及有效期"),
    "verb.cert.renew": ("Put a new certificate in its place, while the node serves", "在节点运行中更换新证书"),
    "more.cert.renew": (
        "Connections that are open go on; new ones are shown the new certificate. Clients that pin the old "
        "fingerprint, or hold the old file, need the new one: THALOOM_FINGERPRINT takes several, with commas between "
        "them.",
        "已打开的连接继续；新连接将看到新证书。固定旧指纹或持有旧文件的客户端需要更新："
        "THALOOM_FINGERPRINT 可写多个，以逗号分隔。",
    ),
    "verb.cert.import": ("Take over a certificate and its key from files", "从文件导入证书及其密钥"),
    "more.cert.import": (
        "Files in PEM; without KEY, the key is in the same file. A pair that is broken, not of each other's, expired "
        "or weak is refused by name, and the one in force stays. To have files of others read at each reload instead: "
        "certificate and key in [door] of config.toml.",
        "PEM 文件；不给出 KEY 时，密钥位于同一文件。损坏、不匹配、过期或过弱的证书会被指名拒绝，原证书保持生效。"
        "若要在每次重新加载时读取他人维护的文件：在 config.toml 的 [door] 中设置 certificate 与 key。",
    ),
    "argument.certificate": ("The certificate, with what signed it.", "证书及其签发链。"),
    "argument.cert.import.key": ("Its key.", "其密钥。"),
    "option.names": (
        "A name or address it is for; again for more (default: what this machine is called).",
        "证书的名称或地址；可重复（默认：本机的名称与地址）。",
    ),
    "option.cert.renew.names": (
        "A name or address it is for; again for more (default: those it has).",
        "证书的名称或地址；可重复（默认：沿用原有名称）。",
    ),
    "option.days": ("How long it holds.", "有效天数。"),
    "option.pem": ("The certificate itself, for THALOOM_CA.", "证书本身，用于 THALOOM_CA。"),
    "cert.made": ("A certificate for {names}, until {until}.", "证书适用于 {names}，有效期至 {until}。"),
    "cert.renewed": ("A new certificate is in force, until {until}.", "新证书已生效，有效期至 {until}。"),
    "cert.imported": (
        "The certificate for {names} is in force, until {until}.",
        "{names} 的证书已生效，有效期至 {until}。",
    ),
    "cert.clients": (
        "The line above is its fingerprint: clients pin it with THALOOM_FINGERPRINT.",
        "上一行为其指纹：客户端可用 THALOOM_FINGERPRINT 固定它。",
    ),
    "cert.not_serving": (
        "The door does not show it yet: it listens on loopback, without TLS.",
        "节点尚未出示该证书：目前只在回环地址监听，未使用 TLS。",
    ),
    "cert.not_shown": ("The door still shows the old one: see its log.", "节点仍出示旧证书：请查看其日志。"),
    "cert.none": ("This node has no certificate (thaloom cert make).", "本节点没有证书（thaloom cert make）。"),
    "cert.self_signed": ("itself", "自签名"),
    "head.fingerprint": ("SHA-256", "SHA-256"),
    "head.cert_names": ("names", "名称"),
    "head.until": ("until", "有效期至"),
    "head.issuer": ("signed by", "签发者"),
    "head.cert_origin": ("kept in", "保存于"),
    "head.tls": ("in use", "使用中"),
    "verb.ls": ("List the models in the store", "列出模型库中的模型"),
    "verb.outgoing": (
        "Show whether the node calls out, and what it did not send",
        "显示节点是否对外联网及未发出的请求",
    ),
    "more.outgoing": (
        "With air_gap in config.toml, or THALOOM_AIRGAP=1 when the node starts, no call leaves the node; each is "
        "refused and listed here. HF_HUB_OFFLINE=1 refuses those of one pull.",
        "config.toml 中的 air_gap，或启动节点时的 THALOOM_AIRGAP=1，使节点不发出任何外部请求；"
        "每个请求都会被拒绝并列在此处。HF_HUB_OFFLINE=1 只拒绝单次 pull 的请求。",
    ),
    "verb.doctor": ("Check this machine", "检查本机"),
    "verb.doctor.host": (
        "List what this machine can and cannot enforce",
        "列出本机能够与不能强制执行的隔离与限额",
    ),
    "more.doctor.host": (
        "Each wall is tried around a program that does nothing, each limit looked up where the node's workers will be. "
        "What is not enforced is never promised: a limit that is asked for and cannot hold is refused.",
        "每道隔离墙都会在一个空程序外实际试建一次，每项限额都在节点工作进程所处的位置查明。"
        "无法强制执行的绝不承诺：请求的限额若不能生效，就会被拒绝。",
    ),
    "verb.show": ("Show what a model is and its files", "显示模型的信息与文件"),
    "verb.rm": ("Remove models from the store", "从模型库中删除模型"),
    "verb.quantize": ("Make a smaller model in whole numbers of one in floats", "将浮点模型量化为更小的整数模型"),
    "more.quantize": (
        "int8 has a scale for each row, or for each 32 columns where that pays; int4 has one for each 32 columns. What "
        "costs too much keeps more: shared keys and values, and in int4 the head. The new model is measured beside its "
        "original on a text, and `thaloom show` keeps the figures. `thaloom serve --weights` converts at load, "
        "unmeasured.",
        "int8 每行一个比例，必要处每 32 列一个；int4 每 32 列一个比例。"
        "损失过大的部分保留更高精度：共享的键和值，以及 int4 的输出头。"
        "新模型与原模型在同一文本上对比，结果见 thaloom show 。"
        "thaloom serve --weights 在加载时转换，但不测量。",
    ),
    "examples.quantize": (
        "thaloom quantize tiny --to int8\nthaloom quantize my-model --to int4 --name my-model-small --text sample.txt",
        "thaloom quantize tiny --to int8\nthaloom quantize my-model --to int4 --name my-model-small --text sample.txt",
    ),
    "option.quantize.to": ("Bits of a number: int8 or int4.", "每个数的位数：int8 或 int4。"),
    "option.quantize.name": (
        "Name of the new model (default: the model's, with -int8 or -int4).",
        "新模型的名称（默认：原名加 -int8 或 -int4）。",
    ),
    "option.quantize.text_file": (
        "Text to measure on (default: a sample that comes with Thaloom).",
        "用于测量的文本（默认：随附的样本）。",
    ),
    "verb.verify": ("Read every byte of a model again and check it", "重新读取并校验模型的每个字节"),
    "more.verify": (
        "Exit code 6 if anything is missing, truncated or altered; the files are named.",
        "若有文件缺失、截断或被改动，会列出文件名，退出码为 6。",
    ),
    "verb.up": ("Start the node", "启动节点"),
    "more.up": (
        "In the foreground, until Ctrl-C or `thaloom down`; with --detach in the background. A home has one node: a "
        "second `up` ends with exit code 4. Host and port: flag, else THALOOM_HOST and THALOOM_PORT, else config.toml.",
        "默认在前台运行，直到 Ctrl-C 或 thaloom down；加 --detach 则在后台运行。"
        "每个主目录只有一个节点：再次 up 的退出码为 4。"
        "地址与端口的优先级：命令行，THALOOM_HOST 与 THALOOM_PORT，config.toml。",
    ),
    "verb.down": ("Stop the node and wait until all of it has ended", "停止节点并等待其全部进程结束"),
    "verb.status": ("Show the node, its memory and its services", "显示节点、内存与服务的状态"),
    "verb.device": ("List and show devices", "列出和查看设备"),
    "verb.device.ls": ("List the devices the drivers found", "列出驱动发现的设备"),
    "verb.device.show": ("Show everything known of one device", "显示某个设备的全部信息"),
    "verb.token": ("Make, list and remove keys for clients", "创建、列出和删除客户端密钥"),
    "more.token": (
        "While there is no key, nobody is asked for one, and any that a client sends is ignored. With the first key "
        "the door asks everybody for one (`require_keys` in config.toml), and its limits hold. Clients send it as "
        "`Authorization: Bearer`, `x-api-key` or `api-key`: where they want an API key, give them this. "
        "Roles, from the least: viewer looks, user asks models, operator serves and stops them, admin does all there "
        "is. Scopes say what a key is for, within its role: infer, read, services, models, tokens, node; without any "
        "it is for all, but a user's for infer alone.",
        "没有密钥时不做任何检查，客户端发送的密钥会被忽略。创建第一个密钥后，门户要求所有请求提供密钥"
        "（config.toml 中的 require_keys），其限额随即生效。客户端以 Authorization: Bearer、x-api-key 或 api-key "
        "发送；凡是需要 API key 的地方填入即可。"
        "角色由低到高：viewer 查看，user 请求模型，operator 启动和停止服务，admin 管理一切。"
        "范围限定密钥在角色之内的用途：infer、read、services、models、tokens、node；不指定则为全部，"
        "但 user 只有 infer。",
    ),
    "verb.token.create": ("Make a key, and show it this once", "创建密钥，仅显示这一次"),
    "examples.token.create": (
        "thaloom token create alice --requests-per-minute 60 --tokens-per-minute 20000\n"
        "thaloom token create batch --priority low --model tiny --expires 30d",
        "thaloom token create alice --requests-per-minute 60 --tokens-per-minute 20000\n"
        "thaloom token create batch --priority low --model tiny --expires 30d",
    ),
    "verb.token.narrow": (
        "Make a key out of another, which may do as much or less",
        "从已有密钥派生权限相同或更小的密钥",
    ),
    "more.token.narrow": (
        "The new key never has more than PARENT: no higher role, no other scopes or models, no higher limits, no later "
        "end. What is left out is as there. What it uses counts against PARENT's limits too, and with PARENT it is "
        "taken back. Everybody may narrow his own key; an admin any that he sees.",
        "新密钥的权限不会超过上级密钥：角色不更高，范围和模型不更多，限额不更大，期限不更长；未指明的与上级相同。"
        "用量同时计入上级的限额；删除上级时一并失效。任何人可派生自己的密钥，管理员可派生所见的任一密钥。",
    ),
    "examples.token.narrow": (
        "thaloom token narrow ci ci-nightly --expires 8h --model tiny --concurrent 1",
        "thaloom token narrow ci ci-nightly --expires 8h --model tiny --concurrent 1",
    ),
    "verb.token.whoami": ("Show who asks, as the node sees him", "显示节点识别出的当前身份"),
    "verb.token.ls": ("List the keys and their limits", "列出密钥及其限额"),
    "verb.token.rm": ("Remove keys: they open nothing any more", "删除密钥：立即失效"),
    "argument.token.create.name": ("What to call it: a person, a program", "密钥名称：使用者或程序"),
    "argument.token.narrow.parent": ("The key it is made out of", "上级密钥"),
    "argument.token.narrow.name": ("What to call it", "新密钥名称"),
    "option.role": (
        "viewer looks, user asks models, operator serves them, admin does all (default user).",
        "角色，权限由低到高（默认 user）。",
    ),
    "option.token.narrow.role": ("A role that is no higher (default: the same).", "不高于上级的角色（默认相同）。"),
    "option.tenant": ("Of this tenant; it sees no other's.", "属于该租户，看不到其他租户。"),
    "option.scopes": (
        "Only for this; may be repeated (default: all of the role; infer for a user).",
        "仅限该范围，可重复。",
    ),
    "option.token.narrow.scopes": ("Only for this; may be repeated.", "仅限该范围，可重复。"),
    "verb.tenant": ("Who has services and keys of his own here, and how much", "租户：各有自己的服务和密钥，以及配额"),
    "more.tenant": (
        "A tenant's services and keys are kept as NAME@TENANT; its members call them NAME, and see nothing of others. "
        "A quota is only what is enforced: services, replicas, memory (by the ledger, where control groups hold "
        "workers to it), keys, and requests and tokens of all its keys together.",
        "租户的服务与密钥保存为 名称@租户；其成员只用名称，看不到其他租户。配额只含能够强制执行的项目：服务数、副本数、"
        "内存（按账本，且控制组能约束工作进程时）、密钥数，以及全部密钥合计的请求数与 token 数。",
    ),
    "verb.tenant.create": ("Add a tenant", "添加租户"),
    "examples.tenant.create": (
        "thaloom tenant create acme --quota services=3 --quota memory=16GiB\n"
        "thaloom token create ci --tenant acme --role operator",
        "thaloom tenant create acme --quota services=3 --quota memory=16GiB\n"
        "thaloom token create ci --tenant acme --role operator",
    ),
    "verb.tenant.set": ("Change a tenant's quota; what it has is left to it", "修改租户配额，已有的不受影响"),
    "examples.tenant.set": (
        "thaloom tenant set acme --quota services=5 --quota memory=none",
        "thaloom tenant set acme --quota services=5 --quota memory=none",
    ),
    "verb.tenant.ls": ("List the tenants, and what each has of its quota", "列出租户及其配额用量"),
    "verb.tenant.show": ("Show one tenant", "显示一个租户"),
    "verb.tenant.rm": ("Remove tenants that have nothing any more", "删除已无任何资源的租户"),
    "argument.tenant.create.name": ("What to call it: a-z, 0-9, '-'", "租户名称：a-z、0-9、-"),
    "argument.tenant.set.name": ("The tenant", "租户"),
    "argument.tenant.show.name": ("The tenant", "租户"),
    "argument.tenant.rm.names": ("Tenants, as `thaloom tenant ls` shows them", "租户，见 thaloom tenant ls"),
    "option.quota": (
        "services, replicas, memory, keys, requests-per-minute, tokens-per-minute or concurrent; none: no limit.",
        "如 memory=8GiB，可重复。",
    ),
    "argument.token.rm.names": ("Keys, as `thaloom token ls` shows them", "密钥名称，见 thaloom token ls"),
    "option.requests_per_minute": ("Requests a minute (default: no limit).", "每分钟请求数（默认不限）。"),
    "option.tokens_per_minute": (
        "Tokens a minute, of prompts and answers together.",
        "每分钟 token 数，提示词与回答合计。",
    ),
    "option.concurrent": ("Requests answered at the same time.", "同时处理的请求数。"),
    "option.models": ("Only this service; may be repeated.", "仅限此服务；可重复。"),
    "option.priority": ("Who comes first where requests wait.", "排队时的优先级。"),
    "option.expires_in_s": ("After so long it opens nothing: 90s, 12h, 30d.", "有效期：90s、12h、30d。"),
    "verb.job": ("Run programs to their end: with retries, deadlines, walls", "运行程序直至结束：可重试、限时、隔离"),
    "more.job": (
        "A job is any program. It outlives the daemon, which may be killed or upgraded meanwhile: neither its exit "
        "code nor its log is lost. It runs behind walls (docs/jobs.md): it sees the system's programs, its own folder "
        "and what it is given, and no network unless asked. A limit that this host cannot enforce is refused.",
        "任务可以是任何程序。守护进程被杀死或升级时任务照常运行，退出码和日志都不会丢失。任务在隔离中运行（docs/jobs.md）："
        "只能看到系统程序、自己的文件夹和给它的路径，除非要求否则没有网络。本机无法执行的限制会被拒绝。",
    ),
    "verb.job.run": ("Run a program as a job", "把程序作为任务运行"),
    "more.job.run": (
        "It begins when the jobs it waits for have ended, its memory is free and it is its turn. With --follow its "
        "output is shown, and its exit code is that of this command.",
        "所等待的任务结束、内存足够并轮到它时开始运行。使用 --follow 显示其输出，本命令的退出码即为该程序的退出码。",
    ),
    "examples.job.run": (
        "thaloom job run --name prepare --memory 2GiB -- python3 prepare.py\n"
        "thaloom job run --after prepare --retries 3 --deadline 2h -- ./train.sh\n"
        "thaloom job run --follow -- sh -c 'echo hello'",
        "thaloom job run --name prepare --memory 2GiB -- python3 prepare.py\n"
        "thaloom job run --after prepare --retries 3 --deadline 2h -- ./train.sh\n"
        "thaloom job run --follow -- sh -c 'echo hello'",
    ),
    "verb.job.ls": ("List jobs, the newest first", "列出任务，最新的在前"),
    "verb.job.show": ("Show a job with its attempts", "显示一个任务及其各次尝试"),
    "verb.job.logs": ("Show what a job has written", "显示任务的输出"),
    "verb.job.wait": ("Wait until jobs are over; the exit code is theirs", "等待任务结束；退出码即任务的退出码"),
    "verb.job.stop": ("End jobs: asked first, killed after their grace", "停止任务：先请求，宽限期后强制结束"),
    "verb.job.rm": ("Forget jobs, with their logs and folders", "删除任务及其日志和文件夹"),
    "argument.job.run.words": ("The program and its arguments", "程序及其参数"),
    "argument.job.show.name": ("A job, as `thaloom job ls` shows it", "任务名，见 thaloom job ls"),
    "argument.job.logs.name": ("A job, as `thaloom job ls` shows it", "任务名，见 thaloom job ls"),
    "argument.job.wait.names": ("Jobs, as `thaloom job ls` shows them", "任务名，见 thaloom job ls"),
    "argument.job.stop.names": ("Jobs, as `thaloom job ls` shows them", "任务名，见 thaloom job ls"),
    "argument.job.rm.names": ("Jobs, as `thaloom job ls` shows them", "任务名，见 thaloom job ls"),
    "option.job.run.name": ("What to call it (default: made up).", "任务名称（默认自动生成）。"),
    "option.after": (
        "Begin when this job has succeeded (:ended: in whatever way); may be repeated.",
        "在此任务成功后开始（:ended：无论结果）",
    ),
    "option.retries": ("Try again so often after a failure (default 0).", "失败后的重试次数（默认 0）。"),
    "option.retry_codes": ("Try again only after this exit code; may be repeated.", "仅在此退出码后重试；可重复。"),
    "option.backoff_s": (
        "Wait before the first retry, doubled each time (default 1s).",
        "首次重试前等待多久，之后每次加倍（默认 1s）",
    ),
    "option.deadline_s": (
        "End it after so long, all retries included: 90s, 15m, 12h.",
        "总时限，包括所有重试：90s、15m、12h。",
    ),
    "option.memory_bytes": ("Memory it gets and no more: 512MiB, 2GB.", "内存上限：512MiB、2GB。"),
    "option.cpus": ("Processors it gets and no more, as 1.5.", "处理器上限，例如 1.5。"),
    "option.num_pids": ("Processes and threads it gets and no more.", "进程和线程数上限。"),
    "option.disk_bytes": (
        "Bytes of its own folder: a disk of its own, which is taken whole.",
        "自有目录的字节数：一块专属磁盘，整块预留。",
    ),
    "option.num_devices": ("Accelerators for itself alone.", "独占的加速设备数。"),
    "option.network": (
        "none, loopback (its own), or host (default none).",
        "无、自己的回环或主机网络（默认 none）",
    ),
    "option.env": ("A variable it gets; may be repeated.", "环境变量；可重复。"),
    "option.secret_places": (
        "A variable read at the start: file:/path, credential:NAME, env:NAME.",
        "启动时读取：file:/路径、credential:名、env:名",
    ),
    "option.directory": (
        "Where it runs, and may write (default: a folder of its own).",
        "运行并可写入的文件夹（默认为自己的文件夹）。",
    ),
    "option.read": ("A path it may read; may be repeated.", "可读取的路径；可重复。"),
    "option.write": ("A path it may write; may be repeated.", "可写入的路径；可重复。"),
    "option.whole_host": ("It may read all of the host but secrets.", "可读取主机上除机密外的所有文件。"),
    "option.grace_s": ("Time between asking it to end and killing it (default 10s).", "停止宽限期（默认 10s）。"),
    "option.ttl_s": ("Forget it so long after its end.", "结束后多久自动删除。"),
    "option.job.run.replace": ("Replace a job of that name that is over.", "替换同名的已结束任务。"),
    "option.job.run.follow": ("Show its output until it is over.", "显示其输出直至结束。"),
    "option.phase": ("Only those in this phase.", "仅列出此阶段的任务。"),
    "option.stop_first": ("Stop those first that are not over.", "先停止尚未结束的任务。"),
    "job.running": ("Job {name} is wished for; its output follows.", "任务 {name} 已提交，输出如下。"),
    "job.none": (
        "There are no jobs. Run one: thaloom job run -- COMMAND",
        "没有任务。运行一个：thaloom job run -- 命令",
    ),
    "job.more": (
        "The newest {count} of {all}; see --limit and --phase.",
        "共 {all} 个，仅列最新 {count} 个；见 --limit 和 --phase。",
    ),
    "job.failures": ("{count} failed, {retries} retries", "失败 {count} 次，可重试 {retries} 次"),
    "job.stopping": ("Job {name} is asked to end.", "已请求停止任务 {name}。"),
    "job.removed": ("Forgot the job {name}.", "已删除任务 {name}。"),
    "job.bad_pair": ("write NAME=VALUE, not {value!r}", "请写成 名称=值，而不是 {value!r}"),
    "job.phase.pending": ("waiting", "等待中"),
    "job.phase.running": ("running", "运行中"),
    "job.phase.succeeded": ("succeeded", "成功"),
    "job.phase.failed": ("failed", "失败"),
    "job.phase.stopped": ("stopped", "已停止"),
    "verb.version": ("Show the version of this program", "显示本程序的版本"),
    "verb.completion": ("Print a completion script for a shell", "输出 shell 补全脚本"),
    "examples.completion": (
        'eval "$(thaloom completion bash)"\nthaloom completion fish > ~/.config/fish/completions/thaloom.fish',
        'eval "$(thaloom completion bash)"\nthaloom completion fish > ~/.config/fish/completions/thaloom.fish',
    ),
    "verb.help": ("Show help for a verb", "显示某个命令的帮助"),
    # -- arguments
    "argument.model": ("A model of the store: NAME or NAME:TAG", "模型库中的模型：名称 或 名称:标签"),
    "argument.alias.set.name": ("The alias", "别名"),
    "argument.alias.set.services": ("The services, each with its weight", "服务，可带权重"),
    "argument.alias.rm.names": ("Aliases, as `thaloom alias ls` shows them", "别名，见 thaloom alias ls"),
    "argument.models": ("Models of the store", "模型库中的模型"),
    "argument.device": ("A device's id, as `thaloom device ls` shows it", "设备标识，见 thaloom device ls"),
    "argument.name": ("A service, or one of the node's own processes", "服务名，或节点自身的进程"),
    "argument.names": ("Services, as `thaloom ps` shows them", "服务名，见 thaloom ps"),
    "argument.path": (
        "A folder, a file, `tiny`, or a hub's model: org/name, hf://..., ms://..., https://...",
        "文件夹、文件、tiny，或仓库中的模型：org/name、hf://…、ms://…、https://…",
    ),
    "argument.prompt": ("What to ask; `-` reads standard input", "提问内容；- 表示读取标准输入"),
    "argument.shell": ("Which shell", "shell 名称"),
    "argument.words": ("A verb, as `run` or `device ls`", "命令，例如 run 或 device ls"),
    "argument.serve.model": (
        "A model of the store; for another engine a path, or its server's name",
        "模型库中的模型；其他引擎用路径，或其服务器上的模型名",
    ),
    "argument.run.model": ("A service, or a model of the store", "服务名，或模型库中的模型"),
    # -- options
    "option.help": ("Show this help.", "显示此帮助。"),
    "option.version": ("Show the version.", "显示版本。"),
    "option.as_json": ("Same as -o json.", "等同于 -o json。"),
    "option.output": ("json: one JSON document on standard output.", "json：向标准输出写一个 JSON 文档。"),
    "option.node": (
        "A node of another machine: https://HOST:PORT (THALOOM_URL).",
        "其他机器上的节点：HTTPS 地址 （THALOOM_URL）。",
    ),
    "option.home": (
        "The node's folder (THALOOM_HOME; default ~/.thaloom).",
        "节点主目录（THALOOM_HOME；默认 ~/.thaloom）。",
    ),
    "option.detach": ("Run in the background; return when ready.", "后台运行；就绪后返回。"),
    "option.host": ("Address to listen on; beyond loopback with TLS.", "监听地址；回环之外须有 TLS。"),
    "option.port": ("TCP port to listen on (default 7411).", "监听的 TCP 端口（默认 7411）。"),
    "option.timeout_s": ("Give up waiting after so long.", "最长等待时间。"),
    "option.wait": ("Return when it is done, or at once.", "等待完成后返回，或立即返回。"),
    "option.ps.everything": ("all services, and the processes of the node", "全部服务，以及节点的进程"),
    "option.ps.limit": ("so many services at most (default 100)", "最多列出多少个服务（默认 100）"),
    "option.everything": ("Also the processes of the node.", "同时列出节点的进程。"),
    "option.follow": ("Go on with what is written from now on.", "持续显示新写入的内容。"),
    "option.tail": ("Begin with the last N lines (default 100).", "从最后 N 行开始（默认 100）。"),
    "option.name": ("Name to serve it under (default: the model's).", "服务名称（默认与模型同名）。"),
    "option.pull.name": ("Name in the store (default: made from the path).", "模型库中的名称（默认取自路径）。"),
    "option.progress": (
        "bar: on a terminal; json: one JSON line each step, on standard error.",
        "bar：进度条；json：逐步向标准错误写 JSON 行。",
    ),
    "option.partial": ("Unfinished pulls instead of models.", "针对未完成的下载，而非模型。"),
    "option.replace": ("Replace a model of that name.", "替换同名模型。"),
    "option.device": ("Device to run on (default: chosen by the node).", "运行设备（默认由节点选择）。"),
    "option.num_threads": ("Threads to compute with (default: the node's choice).", "计算线程数（默认由节点选择）。"),
    "option.context_length": ("Longest prompt and answer together.", "提示词与回答的总长度上限。"),
    "option.kv_bytes": ("Memory for keys and values, as 512MiB.", "键值缓存内存，如 512MiB。"),
    "option.replicas": ("Workers that serve it side by side (default 1).", "并排提供服务的进程数（默认 1）。"),
    "option.canary": ("The service to be watched, one of those named.", "受监视的服务，须是所列服务之一。"),
    "option.max_sequences": ("Requests computed at once (default 16).", "同时计算的请求数（默认 16）。"),
    "option.max_queue": ("Requests that may wait (default 128).", "可排队的请求数（默认 128）。"),
    "option.chunk_tokens": ("Prompt tokens in one step (default 256).", "每步提示词 token 数（默认 256）。"),
    "option.prefix_reuse": (
        "Reuse what equal beginnings have in common (default: yes).",
        "复用相同前缀的计算（默认开启）。",
    ),
    "option.speculation": (
        "Verify guessed tokens where that pays (auto, off); answers stay the same.",
        "划算时验证猜测的 token（auto、off）。",
    ),
    "option.latency": (
        "Its share of the processors: interactive, normal or batch (default: interactive where the host can).",
        "处理器份额（默认 interactive）。",
    ),
    "option.token_s": (
        "Time per token that prompts coming in leave to running answers (default 0.05).",
        "有新提示词时每 token 限时（0.05）。",
    ),
    "option.kv_dtype": (
        "Keep keys and values in f32, f16, bf16 or i8 (default: to fit the weights).",
        "键值格式：f32、f16、bf16 或 i8（默认随权重）。",
    ),
    "option.engine": (
        "Who computes: thaloom (default), llama.cpp, vllm, openai (a server that runs already), onnx, or transformers "
        "(architectures that are not among ours).",
        "引擎：thaloom, llama.cpp, vllm, openai, onnx, transformers。",
    ),
    "option.url": (
        "Where the server of --engine openai answers, as http://127.0.0.1:8000/v1.",
        "--engine openai 所用服务器的地址，如 http://127.0.0.1:8000/v1。",
    ),
    "option.weights": ("Keep weights as stored, or in int8 or int4.", "权重格式：stored（原样）、int8 或 int4。"),
    "option.max_tokens": ("End the answer after N tokens.", "回答最多 N 个 token。"),
    "option.temperature": ("0: always the likeliest token.", "0：总取最可能的 token。"),
    "option.top_p": ("Only the likeliest tokens that add up to P.", "仅取累计概率达 P 的 token。"),
    "option.top_k": ("Only the K likeliest tokens.", "仅取最可能的 K 个 token。"),
    "option.min_p": ("Only tokens P times as likely as the likeliest.", "仅取概率不低于最大者 P 倍的 token。"),
    "option.seed": ("Same seed, same request: same answer.", "种子与请求相同则回答相同。"),
    "option.stop": ("End the answer before this text; may be repeated.", "遇到此文本即停止；可重复。"),
    "option.system": ("What the model is told before the conversation.", "对话前给模型的系统提示。"),
    "option.raw": ("Continue the prompt as it is, without a chat template.", "不套用对话模板，直接续写提示词。"),
    "option.verbose": ("Tell the speed afterwards (on a terminal: always).", "结束后显示速度（终端中总是显示）。"),
    # -- the manual
    "manual.name": ("Name", "名称"),
    "manual.synopsis": ("Synopsis", "概要"),
    "manual.description": ("Description", "描述"),
    "manual.environment": ("Environment", "环境变量"),
    "manual.exit": ("Exit status", "退出状态"),
    "manual.see_also": ("See also", "参见"),
    "environment.THALOOM_HOME": (
        "The one folder everything a node keeps lies under (default ~/.thaloom).",
        "节点全部数据所在的文件夹（默认 ~/.thaloom）。",
    ),
    "environment.THALOOM_HOST": (
        "Where the door listens, or is (default 127.0.0.1).",
        "门户的地址（默认 127.0.0.1）。",
    ),
    "environment.THALOOM_PORT": ("TCP port of the door (default 7411).", "门户的 TCP 端口（默认 7411）。"),
    "environment.THALOOM_URL": (
        "A node of another machine to ask instead: https://HOST:PORT.",
        "改为访问其他机器上的节点：https://主机:端口。",
    ),
    "environment.THALOOM_TOKEN": (
        "The key that is shown to a node (thaloom token create).",
        "向节点出示的密钥（thaloom token create）。",
    ),
    "environment.THALOOM_CA": (
        "A file with the certificates that are believed (thaloom cert show --pem).",
        "所信任证书的文件（thaloom cert show --pem）。",
    ),
    "environment.THALOOM_FINGERPRINT": (
        "SHA-256 of the node's certificate, which alone is believed; several with commas (thaloom cert show).",
        "节点证书的 SHA-256，仅信任它；多个以逗号分隔（thaloom cert show）。",
    ),
    "environment.THALOOM_LANG": (
        "Language of texts, en or zh; else LC_ALL, LC_MESSAGES and LANG decide, in this order.",
        "界面语言：en 或 zh；未设置时依次取 LC_ALL、LC_MESSAGES、LANG。",
    ),
    "environment.NO_COLOR": ("Set to anything: no colours.", "设为任意值：不使用颜色。"),
    "exit.0": ("Done.", "完成。"),
    "exit.1": ("Thaloom failed.", "Thaloom 出错。"),
    "exit.2": ("The request was wrong.", "请求有误。"),
    "exit.3": ("There is no such thing.", "对象不存在。"),
    "exit.4": ("In conflict with what is there.", "与现有状态冲突。"),
    "exit.5": ("Not available now; try again.", "暂不可用，请重试。"),
    "exit.6": ("The data cannot be trusted.", "数据不可信。"),
    "exit.7": ("This machine lacks something.", "本机缺少某种资源。"),
    "exit.8": ("Not allowed.", "不允许。"),
    "exit.130": ("Interrupted.", "被中断。"),
    # -- words
    "truth.yes": ("yes", "是"),
    "truth.no": ("no", "否"),
    "word.yes": ("yes", "有"),
    "word.no": ("no", "无"),
    # -- headings
    "head.holds": ("HOLDS", "生效"),
    "head.how": ("BY WHAT, OR WHY NOT", "依靠什么，或原因"),
    "head.services": ("SERVICES", "服务"),
    "head.canary": ("CANARY", "金丝雀"),
    "head.name": ("NAME", "名称"),
    "head.model": ("MODEL", "模型"),
    "head.state": ("STATE", "状态"),
    "head.device": ("DEVICE", "设备"),
    "head.context": ("CONTEXT", "上下文"),
    "head.weights": ("WEIGHTS", "权重"),
    "head.kv": ("KV", "键值缓存"),
    "head.resident": ("RESIDENT", "驻留内存"),
    "head.running": ("RUNNING", "运行"),
    "head.waiting": ("WAITING", "排队"),
    "head.latency": ("CLASS", "等级"),
    "head.age": ("AGE", "时长"),
    "head.pid": ("PID", "进程号"),
    "head.role": ("ROLE", "角色"),
    "head.service": ("SERVICE", "服务"),
    "head.digest": ("DIGEST", "摘要"),
    "head.done": ("DONE", "已完成"),
    "head.total": ("TOTAL", "总量"),
    "head.commit": ("COMMIT", "提交"),
    "head.time": ("TIME", "时间"),
    "head.call": ("CALL", "请求"),
    "head.purpose": ("FOR", "用途"),
    "head.size": ("SIZE", "大小"),
    "head.parameters": ("PARAMETERS", "参数量"),
    "head.license": ("LICENCE", "许可证"),
    "head.architecture": ("ARCHITECTURE", "架构"),
    "head.dtypes": ("DTYPES", "数据类型"),
    "head.converted": ("CONVERTED", "转换"),
    "head.inputs": ("INPUTS", "输入"),
    "head.outputs": ("OUTPUTS", "输出"),
    "head.quality": ("QUALITY", "质量"),
    "head.vocabulary": ("VOCABULARY", "词表"),
    "head.tokenizer": ("TOKENIZER", "分词器"),
    "head.chat": ("CHAT TEMPLATE", "对话模板"),
    "head.source": ("SOURCE", "来源"),
    "head.imported": ("IMPORTED", "导入时间"),
    "head.summary": ("SUMMARY", "简介"),
    "head.file": ("FILE", "文件"),
    "head.problem": ("PROBLEM", "问题"),
    "head.message": ("MESSAGE", "说明"),
    "head.key": ("KEY", "密钥"),
    "head.requests": ("REQUESTS/MIN", "请求/分"),
    "head.tokens": ("TOKENS/MIN", "TOKEN/分"),
    "head.concurrent": ("AT ONCE", "并发"),
    "head.models": ("MODELS", "模型"),
    "head.reason": ("REASON", "原因"),
    "head.attempts": ("ATTEMPTS", "尝试"),
    "head.exit": ("EXIT", "退出码"),
    "head.command": ("COMMAND", "命令"),
    "head.created": ("CREATED", "创建"),
    "head.after": ("AFTER", "等待"),
    "head.attempt": ("ATTEMPT", "尝试"),
    "head.started": ("STARTED", "开始"),
    "head.ended_by": ("ENDED BY", "结束方式"),
    "head.signal": ("SIGNAL", "信号"),
    "head.priority": ("PRIORITY", "优先级"),
    "head.tenant": ("TENANT", "租户"),
    "head.scopes": ("SCOPES", "范围"),
    "head.parent": ("NARROWED FROM", "上级"),
    "head.replicas": ("REPLICAS", "副本"),
    "head.keys": ("KEYS", "密钥"),
    "head.expires": ("EXPIRES", "到期"),
    "head.kind": ("KIND", "类型"),
    "head.driver": ("DRIVER", "驱动"),
    "head.vendor": ("VENDOR", "厂商"),
    "head.memory": ("MEMORY", "内存"),
    "head.free": ("FREE", "可用"),
    "head.used": ("USED", "已用"),
    "head.capacity": ("CAPACITY", "容量"),
    "head.promised": ("PROMISED", "已承诺"),
    "head.cores": ("CORES", "核心数"),
    "head.health": ("HEALTH", "健康"),
    "head.isolation": ("ISOLATION", "隔离"),
    "head.numa": ("NUMA NODE", "NUMA 节点"),
    "head.features": ("FEATURES", "特性"),
    "head.build": ("RUNS BUILD", "运行的构建"),
    "head.unused": ("FOUND, NOT USED", "已发现，未使用"),
    "head.cache": ("CACHE", "缓存"),
    "head.temperature": ("TEMPERATURE", "温度"),
    "head.power": ("POWER", "功率"),
    "phase.pending": ("pending", "等待中"),
    "phase.loading": ("loading", "加载中"),
    "phase.ready": ("ready", "就绪"),
    "phase.failed": ("failed", "失败"),
    "phase.stopping": ("stopping", "停止中"),
    "problem.missing": ("missing", "缺失"),
    "problem.altered": ("altered", "被改动"),
    "problem.truncated": ("truncated", "被截断"),
    "problem.unreadable": ("unreadable", "不可读"),
    # -- the node
    "up.ready": ("The node is up (pid {pid}).", "节点已启动（进程号 {pid}）。"),
    "up.already": (
        "a node is up already in {home!r} (pid {pid}, {url})",
        "主目录 {home!r} 的节点已在运行（进程号 {pid}，{url}）",
    ),
    "up.starting": ("No node runs here; starting one", "节点未运行，正在启动"),
    "up.api": ("API", "API"),
    "up.metrics": ("metrics", "指标"),
    "up.logs": ("logs", "日志"),
    "up.home": ("home", "主目录"),
    "down.waiting": ("Stopping", "正在停止"),
    "down.done": ("The node is down ({count} processes ended).", "节点已停止（共结束 {count} 个进程）。"),
    "down.late": (
        "still running after {seconds} s: process {pids}",
        "{seconds} 秒后仍在运行的进程：{pids}",
    ),
    "status.version": ("version", "版本"),
    "status.daemon": ("daemon", "守护进程"),
    "status.daemon.value": ("pid {pid}, up {age}", "进程号 {pid}，已运行 {age}"),
    "status.door": ("door", "门户"),
    "status.door.ready": ("ready, pid {pid}", "就绪，进程号 {pid}"),
    "status.door.not_ready": ("not ready, pid {pid}", "未就绪，进程号 {pid}"),
    "status.models": ("models", "模型数"),
    "alias.set": ("{name} stands for {shares}", "{name} 代表 {shares}"),
    "alias.none": (
        "There are no aliases. Add one: thaloom alias set NAME SERVICE",
        "没有别名。添加：thaloom alias set 名称 服务",
    ),
    "alias.removed": ("{name} stands for nothing any more", "{name} 不再代表任何服务"),
    "alias.returned": (
        "{name}: {service} gets no requests, because {reason}",
        "{name}：{service} 不再收到请求，原因：{reason}",
    ),
    "alias.bad_share": (
        "{value!r} is not SERVICE or SERVICE=WEIGHT, each service once",
        "{value!r} 不是 服务 或 服务=权重（每个服务一次）",
    ),
    "device.absent": ("driver {name}: not available, because {reason}", "驱动 {name} 不可用，原因：{reason}"),
    # -- models
    "ls.none": ("The store is empty. Import one: thaloom pull PATH", "模型库为空。导入模型：thaloom pull 路径"),
    "show.weights": ("weights {size}", "权重 {size}"),
    "show.exact": ("from {source} {original}, every number as it was", "来自 {source} {original}，数值无变化"),
    "show.changed": (
        "from {source} {original}, values changed by {error} (root mean square)",
        "来自 {source} {original}，数值变化 {error}（均方根）",
    ),
    "show.quality": (
        "perplexity {perplexity}, of the original {original}; mean KL {kl} nats; {tokens} tokens of {text}",
        "困惑度 {perplexity}（原模型 {original}）；平均 KL {kl} nat；文本 {text}，{tokens} 个词元",
    ),
    "show.not_measured": ("not measured", "未测量"),
    "ls.no_partial": ("No pull is unfinished.", "没有未完成的下载。"),
    "ls.running": ("pulling", "下载中"),
    "ls.waiting": ("interrupted", "已中断"),
    "pull.goes_on": (
        "The node goes on with it. The same command follows it again; `thaloom rm --partial {source}` ends it.",
        "节点会继续下载。再次执行同一命令可继续查看；thaloom rm --partial {source} 将其终止。",
    ),
    "pull.rate": ("{rate}/s, {left} left", "{rate}/秒，剩余 {left}"),
    "outgoing.open": ("Calls may leave this node.", "本节点允许对外请求。"),
    "outgoing.closed": ("No call leaves this node: {reason}.", "本节点不发出任何外部请求：{reason}。"),
    "outgoing.none": ("No call was refused.", "没有被拒绝的请求。"),
    "rm.done": ("Removed {name}.", "已删除 {name}。"),
    "quantize.done": ("Made {name}: {size}, {digest}.", "已生成 {name}：{size}，{digest}。"),
    "pull.done": ("Imported {name}: {size}, {digest}.", "已导入 {name}：{size}，{digest}。"),
    "pull.no_path": ("no such file or folder: {path!r}", "没有这样的文件或文件夹：{path!r}"),
    "verify.sound": ("{name} is sound: {size} read and checked.", "{name} 完好：已读取并校验 {size}。"),
    "verify.altered": ("model {name!r} is not what was imported: {files}", "模型 {name!r} 与导入时不符：{files}"),
    "stage.starting": ("starting", "准备"),
    "stage.waiting": ("waiting for its turn", "排队"),
    "stage.listing": ("asking the hub", "查询仓库"),
    "stage.pulling": ("pulling", "下载"),
    "stage.importing": ("importing", "导入"),
    "stage.quantising": ("quantising", "量化"),
    "stage.measuring": ("measuring", "测量"),
    "stage.verifying": ("verifying", "校验"),
    # -- services
    "ps.more": ("{count} more (--limit N, --all)", "还有 {count} 个（--limit N、--all）"),
    "ps.none": (
        "Nothing is served. Serve something: thaloom serve MODEL",
        "当前没有服务。启动服务：thaloom serve 模型",
    ),
    "serve.waiting": ("Loading {name}", "正在加载 {name}"),
    "serve.ready": ("{name} is served at {url}/v1", "{name} 已在 {url}/v1 提供服务"),
    "serve.wished": ("{name} will be served at {url}/v1", "{name} 将在 {url}/v1 提供服务"),
    "stop.waiting": ("Stopping {name}", "正在停止 {name}"),
    "stop.done": ("Stopped {name}.", "已停止 {name}。"),
    "stop.late": ("{name!r} has not ended after {seconds} s", "{name!r} 在 {seconds} 秒后仍未结束"),
    "logs.foreground": (
        "The daemon runs in the foreground and writes to {place}; what follows is of an earlier one.",
        "守护进程在前台运行，日志写到 {place}；以下内容来自更早的进程。",
    ),
    "logs.none": ("there is no log yet: {path!r}", "尚无日志：{path!r}"),
    # -- keys
    "token.created": (
        "This is the key {name}. It is kept nowhere and cannot be shown again.",
        "这是密钥 {name}。它不会被保存，也无法再次显示。",
    ),
    "token.required": (
        "From now on the door asks every client for a key.",
        "从现在起，门户要求每个客户端提供密钥。",
    ),
    "token.not_required": (
        "Clients without a key are let in too, without limits (require_keys is off).",
        "没有密钥的客户端仍可使用且不受限（require_keys 已关闭）。",
    ),
    "token.none": (
        "There are no keys: nobody is asked for one. Make one: thaloom token create NAME",
        "没有密钥：不做检查。创建密钥：thaloom token create 名称",
    ),
    "token.narrowed": (
        "{name} is taken back with {parent}, and counts against its limits.",
        "{name} 随 {parent} 一并失效，用量计入其限额。",
    ),
    "token.all_scopes": ("all", "全部"),
    "token.whoami": ("{name}, {role}, for: {scopes}", "{name}，{role}，范围：{scopes}"),
    "token.whoami_tenant": ("of the tenant {tenant}", "属于租户 {tenant}"),
    "tenant.created": ("Added the tenant {name}.", "已添加租户 {name}。"),
    "tenant.none": (
        "There are no tenants. Add one: thaloom tenant create NAME",
        "没有租户。添加：thaloom tenant create 名称",
    ),
    "tenant.removed": ("Removed the tenant {name}.", "已删除租户 {name}。"),
    "tenant.no_quota": (
        "{name!r} is no quota that could be kept to (there are: {known})",
        "{name!r} 不是可强制执行的配额（可用：{known}）",
    ),
    "tenant.bad_quota": ("{value!r} is not NAME=NUMBER, nor NAME=none", "{value!r} 不是 名称=数字 或 名称=none"),
    "token.removed": ("Removed the key {name}.", "已删除密钥 {name}。"),
    # -- answers
    "run.no_prompt": (
        "no prompt: standard input is not a terminal and holds nothing",
        "缺少提示词：标准输入不是终端，且没有内容",
    ),
    "run.not_text": (
        "standard input is not UTF-8 text (byte {position})",
        "标准输入不是 UTF-8 文本（第 {position} 字节）",
    ),
    "run.chat_json": (
        "a conversation has no JSON form: give a prompt",
        "对话没有 JSON 形式：请给出提示词",
    ),
    "run.speed": (
        "{tokens} tokens, {rate} tokens/s, first after {first} s, ended by {reason}",
        "{tokens} 个 token，{rate} token/秒，首个 token {first} 秒，结束原因 {reason}",
    ),
    "run.system_raw": (
        "--system needs a model with a chat template, and no --raw",
        "--system 需要带对话模板的模型，且不能与 --raw 同用",
    ),
    "chat.welcome": (
        "Talking to {name}. /help tells what else you can type.",
        "正在与 {name} 对话。输入 /help 查看可用命令。",
    ),
    "chat.completion": (
        "{name} has no chat template: it continues what you type and remembers nothing.",
        "{name} 没有对话模板：它会续写你输入的内容，不记忆上文。",
    ),
    "chat.help": (
        "/clear   forget the conversation\n/bye     end (also Ctrl-D)\n/help    this list\n"
        '"""      begins and ends a text of several lines\nCtrl-C   stop the answer',
        "/clear   清空对话\n/bye     结束（或 Ctrl-D）\n/help    显示此列表\n"
        '"""      多行文本的开始与结束\nCtrl-C   停止当前回答',
    ),
    "chat.not_text": ("That was not UTF-8; nothing was sent.", "输入不是 UTF-8 文本，未发送。"),
    "chat.too_long": ("/clear forgets the conversation so far.", "/clear 可清空之前的对话。"),
    "chat.unknown": ("No such command: {word} (/help lists them)", "没有这个命令：{word}（/help 查看列表）"),
    "chat.cleared": ("Forgotten.", "已清空。"),
    "chat.leave": ("Ctrl-D or /bye ends the conversation.", "按 Ctrl-D 或输入 /bye 结束对话。"),
    "chat.stopped": ("[stopped]", "［已停止］"),
    # -- a command line that cannot be read
    "usage.not_from_afar": (
        "{what} works on the node's own machine only, and {url} is asked here",
        "{what} 只能在节点所在机器上执行，而当前访问的是 {url}",
    ),
    "usage.no_verb": ("no such command: {name!r}", "没有这个命令：{name!r}"),
    "usage.no_option": ("no such option: {name}", "没有这个选项：{name}"),
    "usage.missing": ("{name} is missing", "缺少 {name}"),
    "usage.no_such_path": ("there is no such file or folder: {path!r}", "没有这样的文件或文件夹：{path!r}"),
    "usage.bad_name": (
        "{name!r} is not a name (a folder is imported first: thaloom pull PATH)",
        "{name!r} 不是名称（文件夹需先导入：thaloom pull 路径）",
    ),
    "usage.not_finite": ("{value} is not a finite number", "{value} 不是有限的数"),
    "usage.not_text": ("not UTF-8: {word}", "不是 UTF-8 文本：{word}"),
    "usage.zero": ("must be more than nothing", "必须大于零"),
    "usage.bad_value": ("{name}: {why}", "{name}：{why}"),
    # -- errors
    "error.word": ("error", "错误"),
    "error.near": ("did you mean: {names}", "是否指：{names}"),
    "error.usage": ("see: {usage}", "参见：{usage}"),
    "error.hint": ("hint: {hint}", "提示：{hint}"),
    "error.retry": ("try again in {seconds} s", "请在 {seconds} 秒后重试"),
    "error.help": ("help: {page} (exit code {exit_code})", "帮助：{page}（退出码 {exit_code}）"),
    "error.interrupted": ("interrupted", "已中断"),
    "title.bad_request": ("request not understood", "请求无法理解"),
    "title.bad_parameter": ("wrong value", "参数有误"),
    "title.prompt_too_long": ("prompt too long", "提示词过长"),
    "title.model_not_found": ("no such model", "没有这个模型"),
    "title.service_not_found": ("no such service", "没有这个服务"),
    "title.tenant_not_found": ("no such tenant", "没有这个租户"),
    "title.quota_exceeded": ("the tenant has all it may have", "租户配额已用尽"),
    "title.alias_not_found": ("no such alias", "没有这个别名"),
    "title.device_not_found": ("no such device", "没有这个设备"),
    "title.already_running": ("running already", "节点已在运行"),
    "title.port_taken": ("port taken", "端口被占用"),
    "title.name_taken": ("name taken", "名称已被占用"),
    "title.model_in_use": ("model in use", "模型正在使用"),
    "title.action_not_found": ("no such action", "没有该操作"),
    "title.plan_changed": ("the plan has changed", "计划已改变"),
    "title.nothing_to_undo": ("cannot be undone", "不能撤销"),
    "title.approval_needed": ("leave is needed", "需要批准"),
    "title.budget_spent": ("too many changes", "变更过于频繁"),
    "title.not_verified": ("done, but not seen", "已执行，但未能核实"),
    "title.wrong_state": ("not in this state", "当前状态不允许"),
    "title.file_in_use": ("file in use", "文件正在使用"),
    "title.not_kept": ("not kept here", "此处没有保存"),
    "title.forbidden": ("not allowed", "不允许"),
    "title.air_gapped": ("air-gapped", "已断网隔离"),
    "title.untrusted_source": ("hub not trusted", "仓库不可信"),
    "title.source_unavailable": ("no answer from outside", "外部无响应"),
    "title.not_servable": ("cannot be served", "无法提供服务"),
    "title.corrupt_object": ("data altered", "数据已被改动"),
    "title.unsafe_format": ("unsafe format", "不安全的格式"),
    "title.malformed_file": ("malformed file", "文件格式错误"),
    "title.queue_full": ("queue full", "队列已满"),
    "title.service_loading": ("still loading", "仍在加载"),
    "title.node_not_running": ("no node runs", "节点未运行"),
    "title.disk_full": ("disk full", "磁盘空间不足"),
    "title.out_of_memory": ("out of memory", "内存不足"),
    "title.device_lost": ("device lost", "设备丢失"),
    "title.driver_unavailable": ("driver not available", "驱动不可用"),
    "title.worker_lost": ("worker lost", "工作进程已丢失"),
    "title.service_failed": ("service failed", "服务启动失败"),
    "title.deadline_exceeded": ("took too long", "超时"),
    "title.too_large": ("too large", "过大"),
    "title.method_not_allowed": ("method not served", "方法不支持"),
    "title.unknown_path": ("no such path", "没有这个路径"),
    "title.document_not_found": ("no such document", "没有这份文档"),
    "title.job_not_found": ("no such job", "没有这个任务"),
    "title.key_not_found": ("no such key", "没有这个密钥"),
    "title.unauthorized": ("key required", "需要密钥"),
    "title.rate_limited": ("limit reached", "已达限额"),
    "title.too_many_connections": ("too many connections", "连接过多"),
    "title.body_late": ("too slow", "发送过慢"),
    "title.encoding_not_read": ("encoding not read", "编码不支持"),
    "title.revision_conflict": ("changed meanwhile", "期间已被更改"),
    "title.encryption_key_missing": ("no key for encrypted models", "没有加密模型的密钥"),
    "title.encryption_key_wrong": ("wrong key for encrypted models", "加密模型的密钥错误"),
    "title.certificate_missing": ("no certificate", "没有证书"),
    "title.certificate_unusable": ("certificate cannot be used", "证书不可用"),
    "title.unknown_authority": ("certificate of nobody we know", "证书签发者未知"),
    "title.wrong_fingerprint": ("another certificate than the pinned one", "证书与固定的指纹不符"),
    "title.wrong_host_name": ("certificate for other names", "证书名称不符"),
    "title.certificate_expired": ("certificate does not hold now", "证书不在有效期内"),
    "title.https_needed": ("asked without TLS", "未使用 TLS"),
    "title.not_from_afar": ("not from another machine", "不能从其他机器执行"),
    "title.not_enforceable": ("cannot be enforced here", "本机无法强制执行"),
    "title.state_unusable": ("state cannot be used", "状态数据不可用"),
    "title.internal_error": ("Thaloom failed", "Thaloom 内部错误"),
    "hint.bad_request": (
        "program and node may be of different versions: compare `thaloom version` and `thaloom status`",
        "程序与节点的版本可能不同：请比较 thaloom version 与 thaloom status",
    ),
    "hint.bad_parameter": ("correct the value that is named and try again", "请改正所指出的值后重试"),
    "hint.prompt_too_long": (
        "shorten the prompt or --max-tokens, or serve the model with a larger --context",
        "请缩短提示词或减小 --max-tokens，或以更大的 --context 提供服务",
    ),
    "hint.model_not_found": (
        "`thaloom ls` lists the models; `thaloom pull PATH` imports one",
        "thaloom ls 列出模型；thaloom pull 路径 导入模型",
    ),
    "hint.tenant_not_found": ("`thaloom tenant ls` lists the tenants", "thaloom tenant ls 列出租户"),
    "hint.quota_exceeded": (
        "remove something, or have an admin raise it: `thaloom tenant set`",
        "请删除不用的资源，或由管理员提高配额：thaloom tenant set",
    ),
    "hint.alias_not_found": (
        "`thaloom alias ls` lists the aliases; `thaloom alias set NAME SERVICE` adds one",
        "thaloom alias ls 列出别名；thaloom alias set 名称 服务 添加别名",
    ),
    "hint.service_not_found": (
        "`thaloom ps` lists the services; `thaloom serve MODEL` adds one",
        "thaloom ps 列出服务；thaloom serve 模型 添加服务",
    ),
    "hint.device_not_found": ("`thaloom device ls` lists the devices", "thaloom device ls 列出设备"),
    "hint.already_running": (
        "use it as it is, stop it with `thaloom down`, or choose another --home",
        "可直接使用，或用 thaloom down 停止，或另选 --home",
    ),
    "hint.port_taken": (
        "choose another with --port or THALOOM_PORT",
        "请用 --port 或 THALOOM_PORT 另选端口",
    ),
    "hint.name_taken": (
        "choose another name, or replace it with `thaloom pull --replace`",
        "请换一个名称，或用 thaloom pull --replace 替换",
    ),
    "hint.model_in_use": (
        "stop the services that use it first: thaloom stop NAME",
        "请先停止使用它的服务：thaloom stop 名称",
    ),
    "hint.file_in_use": (
        "a batch still reads it: cancel the batch, or wait for its end",
        "仍有批处理在读取它：请取消该批处理，或等待其结束",
    ),
    "hint.action_not_found": ("`thaloom history` lists them", "用 `thaloom history` 查看"),
    "hint.plan_changed": ("look again with --dry-run", "请用 --dry-run 重新查看"),
    "hint.nothing_to_undo": ("`thaloom explain ID` says what it did", "用 `thaloom explain ID` 查看其内容"),
    "hint.approval_needed": ("a person gives it: thaloom approve DIGEST", "由人员批准：thaloom approve DIGEST"),
    "hint.budget_spent": ("wait; the message says how long", "请稍候，消息中说明了需等多久"),
    "hint.not_verified": ("look at `thaloom status` and the logs", "请查看 `thaloom status` 和日志"),
    "hint.wrong_state": (
        "look at it: what was asked does not apply to it any more",
        "请查看其状态：该操作对它已不再适用",
    ),
    "hint.not_kept": (
        "it was deleted, has expired, or gave way to newer ones; [keep] in config.toml says how much is kept",
        "它已被删除、已过期，或已让位于更新的内容；config.toml 的 [keep] 决定保留多少",
    ),
    "hint.forbidden": (
        "this needs other rights, or is not allowed at all: the message says which",
        "需要其他权限，或根本不被允许：详见上文",
    ),
    "hint.air_gapped": (
        "`thaloom outgoing` tells what closed the way out; a model can still be pulled from a folder",
        "thaloom outgoing 说明为何断网；仍可从文件夹导入模型",
    ),
    "hint.untrusted_source": (
        "nothing was kept; try another endpoint (HF_ENDPOINT), and tell whoever keeps this one",
        "未保留任何内容；请换用其他端点（HF_ENDPOINT），并告知该端点的维护者",
    ),
    "hint.source_unavailable": (
        "run the same command again: what came is kept; `thaloom ls --partial` lists it",
        "请再次执行同一命令：已下载的部分会保留；thaloom ls --partial 可查看",
    ),
    "hint.not_servable": (
        "`thaloom show MODEL` tells what the model is; the message tells what is missing here",
        "thaloom show 模型 显示其信息；上文说明本机缺少什么",
    ),
    "hint.corrupt_object": (
        "import it again from a good copy: thaloom pull PATH --replace",
        "请从完好的副本重新导入：thaloom pull 路径 --replace",
    ),
    "hint.unsafe_format": ("convert it to safetensors where it was made", "请在来源处转换为 safetensors 格式"),
    "hint.malformed_file": ("get the file again from where it was made", "请从来源处重新获取该文件"),
    "hint.queue_full": (
        "wait a moment, or serve the model with a larger --max-queue",
        "请稍候，或以更大的 --max-queue 提供服务",
    ),
    "hint.service_loading": ("wait until `thaloom ps` says it is ready", "请等待 thaloom ps 显示就绪"),
    "hint.node_not_running": (
        "`thaloom up -d` starts one in the background; `thaloom run` starts one by itself",
        "thaloom up -d 在后台启动节点；thaloom run 会自动启动",
    ),
    "hint.disk_full": (
        "make room: `thaloom ls` shows sizes, `thaloom rm` removes",
        "请腾出空间：thaloom ls 查看大小，thaloom rm 删除",
    ),
    "hint.out_of_memory": (
        "ask for less (--context, --kv-bytes, --max-sequences), or stop something: thaloom ps",
        "请减小 --context、--kv-bytes 或 --max-sequences，或停止其他服务：thaloom ps",
    ),
    "hint.device_lost": (
        "`thaloom device ls` shows what is left; look at the machine",
        "thaloom device ls 显示剩余设备；请检查机器",
    ),
    "hint.driver_unavailable": (
        "`thaloom device ls` tells which drivers cannot work and why",
        "thaloom device ls 说明哪些驱动不可用及原因",
    ),
    "hint.worker_lost": (
        "the service heals by itself: ask again; `thaloom logs NAME` tells why it died",
        "服务会自行恢复，请重试；thaloom logs 名称 说明原因",
    ),
    "hint.service_failed": ("`thaloom logs NAME` tells more", "详见 thaloom logs 名称"),
    "hint.deadline_exceeded": (
        "it may still come: look at `thaloom status` and `thaloom logs daemon`",
        "可能仍会完成：请查看 thaloom status 与 thaloom logs daemon",
    ),
    "hint.too_large": ("send less at once", "请减少单次发送的内容"),
    "hint.method_not_allowed": (
        "program and node may be of different versions: compare `thaloom version` and `thaloom status`",
        "程序与节点的版本可能不同：请比较 thaloom version 与 thaloom status",
    ),
    "hint.unknown_path": (
        "program and node may be of different versions: compare `thaloom version` and `thaloom status`",
        "程序与节点的版本可能不同：请比较 thaloom version 与 thaloom status",
    ),
    "hint.document_not_found": ("`thaloom export` shows all there are", "thaloom export 列出全部文档"),
    "hint.job_not_found": ("`thaloom job ls` lists the jobs", "thaloom job ls 列出任务"),
    "hint.key_not_found": ("`thaloom token ls` lists the keys", "thaloom token ls 列出密钥"),
    "hint.unauthorized": (
        "set THALOOM_TOKEN to a key of this node; `thaloom token create` makes one",
        "请将 THALOOM_TOKEN 设为本节点的密钥；thaloom token create 可创建",
    ),
    "hint.rate_limited": (
        "wait as long as it says; `thaloom token ls` shows the limits of each key",
        "请按提示的时间等待；thaloom token ls 显示各密钥的限额",
    ),
    "hint.too_many_connections": ("close connections, or use them again", "请关闭或复用连接"),
    "hint.body_late": ("send it again over a better line", "请在网络良好时重新发送"),
    "hint.encoding_not_read": ("send it uncompressed, or with gzip", "请不压缩发送，或使用 gzip"),
    "hint.revision_conflict": (
        "somebody else changed it at the same time: look at it and try again",
        "其他人同时更改了它：请查看后重试",
    ),
    "hint.encryption_key_missing": (
        "thaloom key show says where it was looked for; thaloom key make makes one",
        "thaloom key show 显示查找的位置；thaloom key make 可生成密钥",
    ),
    "hint.encryption_key_wrong": (
        "put the right master key in its place and start the node again; nothing was changed",
        "请放回正确的主密钥并重新启动节点；没有任何改动",
    ),
    "hint.certificate_missing": (
        "start the node on loopback and make one: thaloom cert make",
        "请先在回环地址启动节点并生成证书：thaloom cert make",
    ),
    "hint.certificate_unusable": (
        "mend the file that is named; the certificate in force stays until then",
        "请修复所指出的文件；在此之前原证书保持生效",
    ),
    "hint.unknown_authority": (
        "on the node: thaloom cert show (for THALOOM_FINGERPRINT) or thaloom cert show --pem (a file for THALOOM_CA)",
        "在节点上执行：thaloom cert show（用于 THALOOM_FINGERPRINT）或 cert show --pem（用于 THALOOM_CA 的文件）",
    ),
    "hint.wrong_fingerprint": (
        "compare it with `thaloom cert show` on the node; if it was not renewed, somebody stands in between",
        "请与节点上的 thaloom cert show 比对；若证书未曾更换，则可能有人在中间拦截",
    ),
    "hint.wrong_host_name": (
        "ask by one of its names (THALOOM_URL), or on the node: thaloom cert renew --name NAME",
        "请使用证书中的名称访问（THALOOM_URL），或在节点上执行：thaloom cert renew --name 名称",
    ),
    "hint.certificate_expired": (
        "on the node: thaloom cert renew; and compare the clocks of the two machines",
        "在节点上执行：thaloom cert renew；并比对两台机器的时钟",
    ),
    "hint.https_needed": (
        "the door there speaks TLS: set THALOOM_URL=https://HOST:PORT, with THALOOM_CA or THALOOM_FINGERPRINT",
        "该处的门户使用 TLS：请设置 THALOOM_URL=https://HOST:PORT，并设置 THALOOM_CA 或 THALOOM_FINGERPRINT",
    ),
    "hint.not_from_afar": (
        "log in to the node's machine, or unset THALOOM_URL to ask the node of this one",
        "请登录节点所在机器，或取消 THALOOM_URL 以使用本机节点",
    ),
    "hint.not_enforceable": (
        "`thaloom doctor host` lists what this machine can enforce",
        "thaloom doctor host 列出本机能够强制执行的内容",
    ),
    "hint.state_unusable": ("the message names the file and what is wrong with it", "上文指出了文件及其问题"),
    "hint.internal_error": (
        "`thaloom logs daemon` tells more; if it comes again it is a bug worth reporting",
        "详见 thaloom logs daemon；若再次出现，请报告此问题",
    ),
}
