"""What verbs do: one line, what else their help says, and examples."""

from __future__ import annotations

TEXTS: dict[str, tuple[str, str]] = {
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
    "verb.key": ("The master key of encrypted models", "加密模型的主密钥"),
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
    "verb.cert": ("The certificate that the door shows beyond this machine", "节点在本机之外出示的证书"),
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
    "verb.version": ("Show the version of this program", "显示本程序的版本"),
    "verb.completion": ("Print a completion script for a shell", "输出 shell 补全脚本"),
    "examples.completion": (
        'eval "$(thaloom completion bash)"\nthaloom completion fish > ~/.config/fish/completions/thaloom.fish',
        'eval "$(thaloom completion bash)"\nthaloom completion fish > ~/.config/fish/completions/thaloom.fish',
    ),
    "verb.help": ("Show help for a verb", "显示某个命令的帮助"),
}
