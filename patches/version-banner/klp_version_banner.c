// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_version_banner.c - the smallest useful livepatch
 *
 * Purpose: replace a static function of vmlinux, version_proc_show(), by one
 * whose effect anybody can see: /proc/version says that it was livepatched.
 * The function is short, never sleeps and is called only when somebody reads
 * the file, so the transition waits for no one.
 *
 * Usage:
 *
 *   # cat /proc/version
 *   Linux version 6.12.0 (...) #1 SMP ...
 *   # insmod klp_version_banner.ko
 *   # cat /proc/version
 *   Linux version 6.12.0 #1 SMP ..., livepatched by klp
 *   # echo 0 > /sys/kernel/livepatch/klp_version_banner/enabled
 *   # rmmod klp_version_banner
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/utsname.h>

/* linux_proc_banner is not exported, so the compiler is not named here. */
static int klp_version_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s version %s %s, livepatched by klp\n",
		   utsname()->sysname, utsname()->release, utsname()->version);
	return 0;
}

static struct klp_func funcs[] = {
	{
		.old_name = "version_proc_show",
		.new_func = klp_version_proc_show,
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

static int __init klp_version_banner_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_version_banner_exit(void)
{
}

module_init(klp_version_banner_init);
module_exit(klp_version_banner_exit);
MODULE_DESCRIPTION("Livepatch that marks /proc/version");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
