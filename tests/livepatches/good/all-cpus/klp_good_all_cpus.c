// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_all_cpus.c - a livepatch for as many CPUs as there are
 *
 * Purpose: mark /proc/version, and keep a number for each CPU.
 */

#include <linux/cpumask.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

static DEFINE_PER_CPU(int, seen);

static int pre_patch(struct klp_object *obj)
{
	int cpu;

	for_each_online_cpu(cpu)
		per_cpu(seen, cpu) = 1;
	return 0;
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

static int __init klp_good_all_cpus_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_all_cpus_exit(void)
{
}

module_init(klp_good_all_cpus_init);
module_exit(klp_good_all_cpus_exit);
MODULE_DESCRIPTION("Livepatch for as many CPUs as there are");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
