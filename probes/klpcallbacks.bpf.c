// SPDX-License-Identifier: Apache-2.0
/*
 * klpcallbacks.bpf.c - Trace the callbacks of livepatched objects.
 *
 * klpcallbacks.py attaches on_call_REGISTER to the calls through that register, on_call_KIND to the
 * calls of a wrapper that the compiler kept, and on_return to the instructions that follow. CALLBACK_*
 * come from there; KLP_*, KOBJECT_*, MODULE_* and MOD_KALLSYMS_* are offsets of members.
 */
#include <linux/types.h>
#include <uapi/linux/elf.h>
#include <uapi/linux/ptrace.h>

#define TASK_COMM_LEN 16
#define NAME_LEN 64
#define MAX_SYMBOLS 256 /* of a module, among which a function's name is looked for */

struct klp_object;
struct module;

/* <linux/livepatch.h>; the same since 5.1 */
struct klp_callbacks {
	u64 pre_patch;
	u64 post_patch;
	u64 pre_unpatch;
	u64 post_unpatch;
	bool post_unpatch_enabled;
};

#define READ(to, base, offset) bpf_probe_read_kernel(&(to), sizeof(to), (void *)(base) + (offset))

struct event_t {
	u64 ts_ns;
	u64 duration_ns;
	u64 function;
	u32 kind;  /* CALLBACK_* */
	u32 kinds; /* a bit for each that this function is */
	s32 result;
	u32 pid;
	u32 tgid;
	char comm[TASK_COMM_LEN];
	char patch[NAME_LEN];
	char object[NAME_LEN];
	char name[NAME_LEN]; /* of the function */
};

struct call_t {
	struct klp_object *object;
	u64 function;
	u64 ts_ns;
	u32 kind;
	u32 kinds;
};

struct place_t {
	u64 task;
	u64 sp;
};

BPF_RINGBUF_OUTPUT(events, 16);
BPF_F_TABLE("array", int, u64, lost, 1, BPF_F_MMAPABLE);
/*
 * By task, and by its stack pointer, which is the same before a call instruction and after it: under
 * klp_mutex there is only one, but a broken core may call one within another.
 */
BPF_HASH(calls, struct place_t, struct call_t);

static __always_inline int enter(struct pt_regs *ctx, struct klp_object *object, u64 function,
				 u32 kind, u32 kinds)
{
	struct place_t self = { .task = bpf_get_current_task(), .sp = PT_REGS_SP(ctx) };
	struct call_t call = { .object = object, .function = function, .kind = kind, .kinds = kinds };

	call.ts_ns = bpf_ktime_get_ns();
	if (calls.lookup(&self))
		lost.atomic_increment(0); /* the end of the one before */
	if (calls.update(&self, &call))
		lost.atomic_increment(0);
	return 0;
}

/*
 * The core calls other pointers, too: their first argument is no object, and this function is not among
 * what is read there. Of a function that serves as several callbacks it is told which.
 */
static __always_inline int enter_if_callback(struct pt_regs *ctx, struct klp_object *object,
					     u64 function)
{
	struct klp_callbacks callbacks = {};
	u32 kind = CALLBACK_POST_UNPATCH, kinds = 0;

	if (READ(callbacks, object, KLP_OBJECT_CALLBACKS))
		return 0; /* not even a pointer */
	if (function == callbacks.post_unpatch)
		kinds |= 1 << kind;
	if (function == callbacks.pre_unpatch)
		kinds |= 1 << (kind = CALLBACK_PRE_UNPATCH);
	if (function == callbacks.post_patch)
		kinds |= 1 << (kind = CALLBACK_POST_PATCH);
	if (function == callbacks.pre_patch)
		kinds |= 1 << (kind = CALLBACK_PRE_PATCH);
	return kinds ? enter(ctx, object, function, kind, kinds) : 0;
}

#define CALL_THROUGH(register, field)                                                          \
	int on_call_##register(struct pt_regs *ctx)                                            \
	{                                                                                      \
		return enter_if_callback(ctx, (struct klp_object *)PT_REGS_PARM1(ctx),         \
					 ctx->field);                                   \
	}

CALL_THROUGH(rax, ax)
CALL_THROUGH(rbx, bx)
CALL_THROUGH(rcx, cx)
CALL_THROUGH(rdx, dx)
CALL_THROUGH(rsi, si)
CALL_THROUGH(rbp, bp)
CALL_THROUGH(r8, r8)
CALL_THROUGH(r9, r9)
CALL_THROUGH(r10, r10)
CALL_THROUGH(r11, r11)
CALL_THROUGH(r12, r12)
CALL_THROUGH(r13, r13)
CALL_THROUGH(r14, r14)
CALL_THROUGH(r15, r15)

/* A wrapper does nothing where the object has no such callback. */
static __always_inline int enter_wrapper(struct pt_regs *ctx, struct klp_object *object, u32 kind)
{
	struct klp_callbacks callbacks = {};
	u64 function = 0;

	READ(callbacks, object, KLP_OBJECT_CALLBACKS);
	if (kind == CALLBACK_PRE_PATCH)
		function = callbacks.pre_patch;
	else if (kind == CALLBACK_POST_PATCH)
		function = callbacks.post_patch;
	else if (kind == CALLBACK_PRE_UNPATCH)
		function = callbacks.pre_unpatch;
	else if (callbacks.post_unpatch_enabled)
		function = callbacks.post_unpatch;
	return function ? enter(ctx, object, function, kind, 1 << kind) : 0;
}

#define CALL_WRAPPER(member, kind)                                                    \
	int on_call_##member(struct pt_regs *ctx)                                     \
	{                                                                             \
		return enter_wrapper(ctx, (struct klp_object *)PT_REGS_PARM1(ctx),    \
				     kind);                                    \
	}

CALL_WRAPPER(pre_patch, CALLBACK_PRE_PATCH)
CALL_WRAPPER(post_patch, CALLBACK_POST_PATCH)
CALL_WRAPPER(pre_unpatch, CALLBACK_PRE_UNPATCH)
CALL_WRAPPER(post_unpatch, CALLBACK_POST_UNPATCH)

/* An object does not point to its livepatch, but its directory in sysfs is inside the livepatch's. */
static __always_inline struct module *module_of(struct klp_object *object)
{
	struct module *mod = NULL;
	void *patch_kobj = NULL;

	READ(patch_kobj, object, KLP_OBJECT_KOBJ + KOBJECT_PARENT);
	READ(mod, patch_kobj, KLP_PATCH_MOD - KLP_PATCH_KOBJ);
	return mod;
}

/*
 * Look a function up in its module's own symbol table, now: a livepatch whose pre-patch callback
 * fails is gone before user space can read /proc/kallsyms.
 */
static __always_inline void read_function_name(char *name, struct module *mod, u64 function)
{
	void *table = NULL, *strings = NULL;
	Elf64_Sym *symbols = NULL;
	Elf64_Sym symbol;
	u32 count = 0;

	READ(table, mod, MODULE_KALLSYMS);
	READ(symbols, table, MOD_KALLSYMS_SYMTAB);
	READ(strings, table, MOD_KALLSYMS_STRTAB);
	READ(count, table, MOD_KALLSYMS_NUM_SYMTAB);
	for (u32 i = 0; i < MAX_SYMBOLS && i < count; i++) {
		if (READ(symbol, symbols, i * sizeof(symbol)))
			return;
		if (symbol.st_value == function && symbol.st_name) {
			bpf_probe_read_kernel_str(name, NAME_LEN, strings + symbol.st_name);
			return;
		}
	}
}

static __always_inline void read_names(struct event_t *event, struct call_t *call)
{
	struct module *mod = module_of(call->object);
	const char *name = NULL;

	bpf_probe_read_kernel_str(event->patch, NAME_LEN, (void *)mod + MODULE_NAME);
	READ(name, call->object, KLP_OBJECT_NAME);
	if (name) /* NULL is vmlinux */
		bpf_probe_read_kernel_str(event->object, NAME_LEN, name);
	read_function_name(event->name, mod, call->function);
}

/* Control comes here without the call too, where an object has no callback: then there is no entry. */
int on_return(struct pt_regs *ctx)
{
	struct place_t self = { .task = bpf_get_current_task(), .sp = PT_REGS_SP(ctx) };
	struct event_t event = {};
	struct call_t *call = calls.lookup(&self);
	u64 thread = bpf_get_current_pid_tgid();

	if (!call)
		return 0;
	event.ts_ns = call->ts_ns;
	event.duration_ns = bpf_ktime_get_ns() - call->ts_ns;
	event.function = call->function;
	event.kind = call->kind;
	event.kinds = call->kinds;
	event.result = PT_REGS_RC(ctx);
	event.pid = thread;
	event.tgid = thread >> 32;
	bpf_get_current_comm(event.comm, sizeof(event.comm));
	read_names(&event, call);
	calls.delete(&self);
	if (events.ringbuf_output(&event, sizeof(event), BPF_RB_NO_WAKEUP))
		lost.atomic_increment(0);
	return 0;
}
