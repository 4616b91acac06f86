// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_good_cpu_let_go.c - a livepatch that lets CPUs go
 *
 * Purpose: mark /proc/version, and be told when a CPU goes offline.
 */

#include <linux/cpuhotplug.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

static int state;

static int cpu_goes(unsigned int cpu)
{
	return 0;
}

static int pre_patch(struct klp_object *obj)
{
	state = cpuhp_setup_state_nocalls(CPUHP_AP_ONLINE_DYN, KBUILD_MODNAME,
					  NULL, cpu_goes);
	return state < 0 ? state : 0;
}

static void post_unpatch(struct klp_object *obj)
{
	cpuhp_remove_state_nocalls(state);
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
			.post_unpatch = post_unpatch,
		},
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_good_cpu_let_go_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_good_cpu_let_go_exit(void)
{
}

module_init(klp_good_cpu_let_go_init);
module_exit(klp_good_cpu_let_go_exit);
MODULE_DESCRIPTION("Livepatch that lets CPUs go");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
