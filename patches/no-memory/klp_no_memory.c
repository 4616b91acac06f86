// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_no_memory.c - an allocation of a module's fails
 *
 * Purpose: have memory run out for a livepatch at a moment that is chosen, on a
 * kernel that was built without fault injection. What is allocated with code of
 * the module on the stack is counted: by its init function, its callbacks, its
 * new functions; and by klp_enable_patch() while it loads. The nth of these
 * allocations fails, once, as /proc/PID/fail-nth has it elsewhere
 * (Documentation/fault-injection/fault-injection.rst).
 *
 *   module	the module, loaded or not
 *   nth	which allocation fails; 0 for none. To write it begins to count anew
 *   armed	whether allocations are counted, and fail
 *   count	how many there were
 *   own	which of them the module's own code asked for, and not the kernel for it
 *   failed	who asked for the one that failed; empty if none did
 *
 * Usage:
 *
 *   # insmod klp_no_memory.ko module=livepatch_sample
 *   # cd /sys/module/klp_no_memory/parameters
 *   # echo 1 >nth; echo 1 >armed
 *   # insmod livepatch-sample.ko
 *   insmod: ERROR: could not insert module livepatch-sample.ko: Cannot allocate memory
 *
 * A kprobe at the entry of each function that allocates has it return NULL. What
 * may not fail (__GFP_NOFAIL) is left alone. Pages from alloc_pages() are not
 * looked at. Arguments and return value are those of x86-64.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/atomic.h>
#include <linux/bitmap.h>
#include <linux/gfp.h>
#include <linux/kallsyms.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/linkage.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/objtool.h>
#include <linux/ptrace.h>
#include <linux/spinlock.h>
#include <linux/stacktrace.h>
#include <linux/string.h>

#ifndef CONFIG_X86_64
#error "klp_no_memory knows the calls of x86-64 alone"
#endif

#define FRAMES	48
#define NUMBERS	1024

static char *module = "";
module_param(module, charp, 0444);
MODULE_PARM_DESC(module, "whose allocations fail");

static bool armed;
module_param(armed, bool, 0644);
MODULE_PARM_DESC(armed, "whether allocations are counted, and fail");

/* Of what follows. */
static DEFINE_RAW_SPINLOCK(lock);
static unsigned int nth, count;
static unsigned long asked_by;
static DECLARE_BITMAP(own, NUMBERS);

module_param(count, uint, 0444);
MODULE_PARM_DESC(count, "how many allocations there were");

static struct module *target;

static int nth_set(const char *val, const struct kernel_param *kp)
{
	unsigned int wanted;
	unsigned long flags;
	int err;

	err = kstrtouint(val, 0, &wanted);
	if (err)
		return err;

	raw_spin_lock_irqsave(&lock, flags);
	nth = wanted;
	count = 0;
	asked_by = 0;
	bitmap_zero(own, NUMBERS);
	raw_spin_unlock_irqrestore(&lock, flags);
	return 0;
}

static const struct kernel_param_ops nth_ops = {
	.set = nth_set,
	.get = param_get_uint,
};

module_param_cb(nth, &nth_ops, &nth, 0644);
MODULE_PARM_DESC(nth, "which allocation fails; 0 for none");

static int own_get(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%*pbl\n", NUMBERS, own);
}

static const struct kernel_param_ops own_ops = {
	.get = own_get,
};

module_param_cb(own, &own_ops, NULL, 0444);
MODULE_PARM_DESC(own, "which allocations the module's own code asked for");

static int failed_get(char *buffer, const struct kernel_param *kp)
{
	if (!asked_by)
		return sysfs_emit(buffer, "\n");
	return sysfs_emit(buffer, "%ps\n", (void *)asked_by);
}

static const struct kernel_param_ops failed_ops = {
	.get = failed_get,
};

module_param_cb(failed, &failed_ops, NULL, 0444);
MODULE_PARM_DESC(failed, "who asked for the allocation that failed");

asmlinkage void klp_no_memory_return(void);

/* What a function that allocates goes on with where it is to return NULL. */
asm(".pushsection .text, \"ax\"\n"
	".type klp_no_memory_return, @function\n"
	".globl klp_no_memory_return\n"
	"klp_no_memory_return:\n"
	"	endbr64\n"
	"	" ASM_RET
	".size klp_no_memory_return, . - klp_no_memory_return\n"
	".popsection\n");

/* How long klp_enable_patch() is; no interface tells, but names with offsets do. */
static unsigned long enabling_size;

static int find_enabling(void)
{
	char shown[KSYM_SYMBOL_LEN];
	char *size;

	sprint_symbol(shown, (unsigned long)klp_enable_patch);
	size = strrchr(shown, '/');
	return size ? kstrtoul(size + 1, 16, &enabling_size) : -ENOENT;
}

/*
 * Whether it is the module that wants memory: its code is on the stack, or it is
 * loading and is enabled by the kernel. An init function that returns what
 * klp_enable_patch() returns jumps there, and is on no stack by then.
 */
static bool concerned(const struct module *mod)
{
	unsigned long enabling = (unsigned long)klp_enable_patch;
	unsigned long frames[FRAMES];
	unsigned int got, i;
	bool loading = READ_ONCE(mod->state) == MODULE_STATE_COMING;

	got = stack_trace_save(frames, FRAMES, 0);
	for (i = 0; i < got; i++) {
		if (within_module(frames[i], mod))
			return true;
		if (loading && frames[i] - enabling < enabling_size)
			return true;
	}
	return false;
}

/* Count an allocation that "caller" asks for; return whether it is to fail. */
static bool counted(const struct module *mod, unsigned long caller)
{
	unsigned long flags;
	bool fails;

	raw_spin_lock_irqsave(&lock, flags);
	count++;
	if (count < NUMBERS && within_module(caller, mod))
		__set_bit(count, own);
	fails = count == nth;
	if (fails)
		asked_by = caller;
	raw_spin_unlock_irqrestore(&lock, flags);
	return fails;
}

static bool fails(struct pt_regs *regs, gfp_t flags)
{
	struct module *mod = READ_ONCE(target);

	if (!READ_ONCE(armed) || !mod || !in_task() || flags & __GFP_NOFAIL)
		return false;
	if (!concerned(mod) || !counted(mod, *(unsigned long *)regs->sp))
		return false;

	regs->ax = 0;
	regs->ip = (unsigned long)klp_no_memory_return;
	return true;
}

/* At the entry of functions with their flags in one argument or another. */

static int flags_nowhere(struct kprobe *kp, struct pt_regs *regs)
{
	return fails(regs, 0);
}

static int flags_second(struct kprobe *kp, struct pt_regs *regs)
{
	return fails(regs, regs->si);
}

static int flags_third(struct kprobe *kp, struct pt_regs *regs)
{
	return fails(regs, regs->dx);
}

#ifdef CONFIG_SLAB_BUCKETS
#define flags_after_bucket flags_third
#else
#define flags_after_bucket flags_second
#endif

/* Of several generations of kernels (mm/slub.c and others): not all are there. */
static struct kprobe probes[] = {
	{ .symbol_name = "__kmalloc", .pre_handler = flags_second },
	{ .symbol_name = "__kmalloc_node", .pre_handler = flags_second },
	{ .symbol_name = "__kmalloc_node_track_caller", .pre_handler = flags_second },
	{ .symbol_name = "kmalloc_trace", .pre_handler = flags_second },
	{ .symbol_name = "kmalloc_node_trace", .pre_handler = flags_second },
	{ .symbol_name = "kmalloc_large", .pre_handler = flags_second },
	{ .symbol_name = "kmem_cache_alloc", .pre_handler = flags_second },
	{ .symbol_name = "kmem_cache_alloc_node", .pre_handler = flags_second },
	{ .symbol_name = "__kmalloc_noprof", .pre_handler = flags_second },
	{ .symbol_name = "__kmalloc_node_noprof", .pre_handler = flags_after_bucket },
	{ .symbol_name = "__kmalloc_node_track_caller_noprof",
	  .pre_handler = flags_after_bucket },
	{ .symbol_name = "__kmalloc_cache_noprof", .pre_handler = flags_second },
	{ .symbol_name = "__kmalloc_cache_node_noprof", .pre_handler = flags_second },
	{ .symbol_name = "__kmalloc_large_noprof", .pre_handler = flags_second },
	{ .symbol_name = "kmem_cache_alloc_noprof", .pre_handler = flags_second },
	{ .symbol_name = "kmem_cache_alloc_node_noprof", .pre_handler = flags_second },
	{ .symbol_name = "vmalloc", .pre_handler = flags_nowhere },
	{ .symbol_name = "vzalloc", .pre_handler = flags_nowhere },
	{ .symbol_name = "vmalloc_noprof", .pre_handler = flags_nowhere },
	{ .symbol_name = "vzalloc_noprof", .pre_handler = flags_nowhere },
	{ .symbol_name = "__alloc_percpu", .pre_handler = flags_nowhere },
	{ .symbol_name = "__alloc_percpu_gfp", .pre_handler = flags_third },
	{ .symbol_name = "pcpu_alloc_noprof", .pre_handler = flags_nowhere },
	{ .symbol_name = "__get_free_pages", .pre_handler = flags_nowhere },
	{ .symbol_name = "get_free_pages_noprof", .pre_handler = flags_nowhere },
};

static bool there[ARRAY_SIZE(probes)];

static int come_or_gone(struct notifier_block *nb, unsigned long state, void *data)
{
	struct module *mod = data;

	if (strcmp(mod->name, module))
		return NOTIFY_DONE;
	if (state == MODULE_STATE_COMING)
		WRITE_ONCE(target, mod);
	else if (state == MODULE_STATE_GOING)
		WRITE_ONCE(target, NULL);
	return NOTIFY_DONE;
}

/* Before the livepatch core's, which calls nothing of the module's. */
static struct notifier_block notifier = {
	.notifier_call = come_or_gone,
	.priority = INT_MAX - 1,
};

static void remove_probes(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(probes); i++) {
		if (there[i])
			unregister_kprobe(&probes[i]);
	}
}

static int __init klp_no_memory_init(void)
{
	unsigned int i, found = 0;
	int err;

	err = find_enabling();
	if (err)
		return err;

	for (i = 0; i < ARRAY_SIZE(probes); i++) {
		there[i] = !register_kprobe(&probes[i]);
		found += there[i];
	}
	if (!found) {
		pr_err("no function that allocates can be probed\n");
		return -EOPNOTSUPP;
	}

	err = register_module_notifier(&notifier);
	if (err)
		remove_probes();
	return err;
}

static void __exit klp_no_memory_exit(void)
{
	unregister_module_notifier(&notifier);
	remove_probes();
}

module_init(klp_no_memory_init);
module_exit(klp_no_memory_exit);
MODULE_DESCRIPTION("An allocation of a module's fails");
MODULE_LICENSE("GPL");
