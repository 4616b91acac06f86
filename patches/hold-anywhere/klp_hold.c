// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_hold.c - tasks that seem to sleep in a function of anybody's
 *
 * Purpose: hold up the transition of a livepatch that nobody prepared for it,
 * in either direction, for as long as told. To the unwinder, and so to
 * klp_check_stack(), each kthread of this module sleeps in a function that it
 * never runs a byte of: an address inside of that function lies on its stack
 * where a return address would be. Before the kthread wakes up to return there
 * it puts a true return address in its place.
 *
 *   patch	an enabled livepatch: a kthread for each of its functions
 *   which=old	in what comes into force without it: held so, it cannot be
 *		enabled the next time (default)
 *   which=new	in its own functions: held so, it cannot be disabled
 *   function	instead: a function by its name, or MODULE:NAME
 *
 * The kthreads are let go by parameters/hold, and can be caught again:
 *
 *   # insmod klp_hold.ko function=cmdline_proc_show
 *   # insmod livepatch-sample.ko		(its transition does not end)
 *   # echo 0 > /sys/module/klp_hold/parameters/hold	(now it does)
 *
 * Any function that can be livepatched will do, with whatever arguments: at its
 * entry, where the address points, it has nothing on the stack yet but the
 * address that it returns to. That is how ORC unwinds it, so this is for x86-64.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/err.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/kthread.h>
#include <linux/linkage.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/objtool.h>
#include <linux/string.h>
#include <linux/wait.h>

#ifndef CONFIG_X86_64
#error "klp_hold knows the stack of x86-64 alone"
#endif

static char *patch = "";
module_param(patch, charp, 0444);
MODULE_PARM_DESC(patch, "the livepatch in whose functions to be held");

static char *which = "old";
module_param(which, charp, 0444);
MODULE_PARM_DESC(which, "old: what it takes the place of (default); new: its own");

static char *function = "";
module_param(function, charp, 0444);
MODULE_PARM_DESC(function, "the function to be held in, instead");

#define MOST 64

/* Where the functions begin, and who sleeps there. */
static unsigned long addresses[MOST];
static struct task_struct *kthreads[MOST];
static unsigned int count, started;
module_param(count, uint, 0444);
MODULE_PARM_DESC(count, "how many kthreads there are (read only)");

static bool hold = true;
static atomic_t inside = ATOMIC_INIT(0);
static DECLARE_WAIT_QUEUE_HEAD(changed);

static int hold_set(const char *val, const struct kernel_param *kp)
{
	int err;

	err = param_set_bool(val, kp);
	wake_up_all(&changed);
	return err;
}

static const struct kernel_param_ops hold_ops = {
	.set = hold_set,
	.get = param_get_bool,
};

module_param_cb(hold, &hold_ops, &hold, 0644);
MODULE_PARM_DESC(hold, "hold the kthreads (default), or let them go");

static int inside_get(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%d\n", atomic_read(&inside));
}

static const struct kernel_param_ops inside_ops = {
	.get = inside_get,
};

module_param_cb(inside, &inside_ops, NULL, 0444);
MODULE_PARM_DESC(inside, "how many kthreads are held");

static unsigned long (*lookup)(const char *name);

asmlinkage void klp_hold_call(unsigned long where);
asmlinkage void klp_hold_landing(void);
asmlinkage void klp_hold_sleep(unsigned long *slot);

/*
 * klp_hold_call() goes on in klp_hold_sleep() as if the function at "where" had
 * called it, and tells it where on the stack that false return address lies.
 * klp_hold_landing() is what the return goes to in truth.
 */
asm(".pushsection .text, \"ax\"\n"
	".type klp_hold_call, @function\n"
	".globl klp_hold_call\n"
	"klp_hold_call:\n"
	"	pushq %rdi\n"
	"	movq %rsp, %rdi\n"
	"	jmp klp_hold_sleep\n"
	".size klp_hold_call, . - klp_hold_call\n"
	".type klp_hold_landing, @function\n"
	".globl klp_hold_landing\n"
	"klp_hold_landing:\n"
	"	endbr64\n"
	"	" ASM_RET
	".size klp_hold_landing, . - klp_hold_landing\n"
	".popsection\n");
STACK_FRAME_NON_STANDARD(klp_hold_call);

/* Wakes up for nothing when the livepatch core wakes kthreads: goes on waiting. */
asmlinkage __visible noinline notrace void klp_hold_sleep(unsigned long *slot)
{
	atomic_inc(&inside);
	wait_event_interruptible(changed, !READ_ONCE(hold) || kthread_should_stop());
	atomic_dec(&inside);
	WRITE_ONCE(*slot, (unsigned long)klp_hold_landing);
}

static int klp_hold_thread(void *address)
{
	while (!kthread_should_stop()) {
		/* The unwinder looks up the byte before a return address. */
		klp_hold_call(*(unsigned long *)address + 1);
		wait_event_interruptible(changed, READ_ONCE(hold) || kthread_should_stop());
	}
	return 0;
}

/* kallsyms_lookup_name() is not exported, but a kprobe tells where it is. */
static int find_lookup(void)
{
	struct kprobe kp = {
		.symbol_name = "kallsyms_lookup_name",
	};
	int err;

	err = register_kprobe(&kp);
	if (err)
		return err;
	lookup = (void *)kp.addr;
	unregister_kprobe(&kp);
	return 0;
}

static void add(void *address)
{
	if (address && count < MOST)
		addresses[count++] = (unsigned long)address;
}

/* What "found" has for the same function as "func" of "obj", or NULL. */
static void *its_own(struct klp_patch *found, const struct klp_func *func)
{
	struct klp_object *each_obj;
	struct klp_func *each;

	klp_for_each_object(found, each_obj) {
		klp_for_each_func(each_obj, each) {
			if (each->old_func && each->old_func == func->old_func)
				return each->new_func;
		}
	}
	return NULL;
}

/* The newest of the livepatches below "found" has it, or else the kernel. */
static void *below(struct list_head *patches, struct klp_patch *found,
		   const struct klp_func *func)
{
	void *address = func->old_func, *own;
	struct klp_patch *each;

	list_for_each_entry(each, patches, list) {
		if (each == found)
			break;
		own = its_own(each, func);
		if (own)
			address = own;
	}
	return address;
}

static void add_all(struct list_head *patches, struct klp_patch *found)
{
	bool old = strcmp(which, "new");
	struct klp_object *obj;
	struct klp_func *func;

	klp_for_each_object(found, obj) {
		klp_for_each_func(obj, func) {
			/* Nothing of an object that is not loaded is known. */
			if (!func->old_func)
				continue;
			add(old ? below(patches, found, func) : func->new_func);
		}
	}
}

static int find_addresses(void)
{
	struct mutex *mutex; /* klp_mutex: keeps the livepatches as they are */
	struct list_head *patches;
	struct klp_patch *each;
	int err;

	err = find_lookup();
	if (err)
		return err;
	if (*function)
		add((void *)lookup(function));
	patches = (void *)lookup("klp_patches");
	mutex = (void *)lookup("klp_mutex");
	if (!patches || !mutex)
		return -ENOENT;

	mutex_lock(mutex);
	list_for_each_entry(each, patches, list) {
		if (!strcmp(each->mod->name, patch))
			add_all(patches, each);
	}
	mutex_unlock(mutex);
	if (!count)
		pr_err("no function %s, and none of a livepatch %s\n", function, patch);
	return count ? 0 : -ENOENT;
}

static void klp_hold_stop(void)
{
	while (started)
		kthread_stop(kthreads[--started]);
}

static int __init klp_hold_init(void)
{
	struct task_struct *task;
	int err;

	err = find_addresses();
	if (err)
		return err;
	while (started < count) {
		task = kthread_run(klp_hold_thread, &addresses[started],
				   "klp_hold/%u", started);
		if (IS_ERR(task)) {
			klp_hold_stop();
			return PTR_ERR(task);
		}
		kthreads[started++] = task;
	}
	return 0;
}

static void __exit klp_hold_exit(void)
{
	klp_hold_stop();
}

module_init(klp_hold_init);
module_exit(klp_hold_exit);
MODULE_DESCRIPTION("Tasks that seem to sleep in a function of anybody's");
MODULE_LICENSE("GPL");
