// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_shadow_each_call.c - a livepatch that never frees its shadow variables
 *
 * Purpose: note who reads the sysctls of the random number generator, in a shadow
 * variable for each read.
 *
 * Fault: a read's variable is of use while it lasts, and nothing frees it after.
 */

#include <linux/atomic.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/sysctl.h>

#define SV_READER	0x6b6c7601

static atomic_long_t reads;

/* Since 6.11 the table is const, and this is for kernels before it, too. */
static int livepatch_do_rointvec(void *table, int write, void *buf,
				 size_t *lenp, loff_t *ppos)
{
	void *read = (void *)atomic_long_inc_return(&reads);
	pid_t *reader;

	reader = klp_shadow_alloc(read, SV_READER, sizeof(*reader), GFP_KERNEL,
				  NULL, NULL);
	if (reader)
		*reader = current->pid;
	return write ? 0 : proc_dointvec(table, 0, buf, lenp, ppos);
}

static struct klp_func funcs[] = {
	{
		.old_name = "proc_do_rointvec",
		.new_func = livepatch_do_rointvec,
	}, { }
};

static struct klp_object objs[] = {
	{
		/* name being NULL means vmlinux */
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_shadow_each_call_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_shadow_each_call_exit(void)
{
}

module_init(klp_bad_shadow_each_call_init);
module_exit(klp_bad_shadow_each_call_exit);
MODULE_DESCRIPTION("Livepatch that never frees its shadow variables");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
