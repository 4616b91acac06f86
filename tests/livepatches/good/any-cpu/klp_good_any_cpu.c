// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_any_cpu.c - a livepatch that takes the CPU it finds
 *
 * Purpose: mark /proc/version, and ask a CPU something first, which must be
 * online for that.
 */

#include <linux/cpumask.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/smp.h>
#include <linux/utsname.h>

static void look(void *seen)
{
	*(int *)seen = smp_processor_id();
}

static int pre_patch(struct klp_object *obj)
{
	int seen;

	return smp_call_function_single(cpumask_first(cpu_online_mask), look, &seen, 1);
}

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s version %s, livepatched\n",
		   utsname()->sysname, utsname()->release);
	return 0;
}

static struct klp_func funcs[] = {
	{
		.old_name = "version_proc_show",
		.new_func = livepatch_version_proc_show,
	}, { }
};

static struct klp_object objs[] = {
	{
		/* name being NULL means vmlinux */
		.funcs = funcs,
		.callbacks = {
			.pre_patch = pre_patch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_good_any_cpu_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_any_cpu_exit(void)
{
}

module_init(klp_good_any_cpu_init);
module_exit(klp_good_any_cpu_exit);
MODULE_DESCRIPTION("Livepatch that takes the CPU it finds");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
