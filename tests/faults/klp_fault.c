// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_fault.c - a module that takes the kernel down, in the way it is told
 *
 * Purpose: let the tests see that every way of losing a guest is told by its
 * own name. Each fault is one function, not inlined, so that the kernel's
 * report has its name in it: klp_fault_panic(), klp_fault_oops(), ...
 *
 * Usage, in a guest that nobody will miss:
 *
 *   # insmod klp_fault.ko how=oops
 *
 * "panic" strikes in the module's init; every other fault strikes in a kthread
 * of its own, so that insmod returns.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/err.h>
#include <linux/gfp.h>
#include <linux/irqflags.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/preempt.h>
#include <linux/sched.h>
#include <linux/string.h>

static char *how = "";
module_param(how, charp, 0444);
MODULE_PARM_DESC(how, "panic, oops, irqs_off, preempt_off, blocked or memory");

/* Never true, and the compiler does not know. */
static bool relent;

static noinline void klp_fault_panic(void)
{
	panic("klp_fault was told to");
}

static noinline int klp_fault_oops(void *nothing)
{
	int *nowhere = READ_ONCE(nothing);

	WRITE_ONCE(*nowhere, 1);
	return 0;
}

static noinline int klp_fault_irqs_off(void *nothing)
{
	local_irq_disable();
	while (!READ_ONCE(relent))
		cpu_relax();
	local_irq_enable();
	return 0;
}

static noinline int klp_fault_preempt_off(void *nothing)
{
	preempt_disable();
	while (!READ_ONCE(relent))
		cpu_relax();
	preempt_enable();
	return 0;
}

static noinline int klp_fault_blocked(void *nothing)
{
	while (!READ_ONCE(relent)) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		schedule();
	}
	return 0;
}

/* The pages are meant to be lost: nothing but a reboot brings them back. */
static noinline int klp_fault_memory(void *nothing)
{
	while (!READ_ONCE(relent)) {
		if (!alloc_page(GFP_KERNEL))
			usleep_range(1000, 2000);
	}
	return 0;
}

static const struct {
	const char *how;
	int (*strike)(void *nothing);
} faults[] = {
	{ "oops", klp_fault_oops },
	{ "irqs_off", klp_fault_irqs_off },
	{ "preempt_off", klp_fault_preempt_off },
	{ "blocked", klp_fault_blocked },
	{ "memory", klp_fault_memory },
};

static int __init klp_fault_init(void)
{
	struct task_struct *thread;
	int i;

	if (!strcmp(how, "panic"))
		klp_fault_panic();
	for (i = 0; i < ARRAY_SIZE(faults); i++) {
		if (strcmp(how, faults[i].how))
			continue;
		thread = kthread_run(faults[i].strike, NULL, "klp_fault");
		return PTR_ERR_OR_ZERO(thread);
	}
	pr_err("how=%s: no such fault\n", how);
	return -EINVAL;
}

/* No exit: a module that has struck is never removed. */
module_init(klp_fault_init);
MODULE_DESCRIPTION("Takes the kernel down, for tests");
MODULE_LICENSE("GPL");
