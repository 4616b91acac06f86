// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_trampoline_unknown.c - a livepatch whose new function knows some tracers alone
 *
 * Purpose: mark /proc/version where seq_read_iter() asks for it, also beneath
 * a return probe, and show it to others as it was.
 *
 * Fault: at a function with a BPF program at its return the caller is a BPF
 * trampoline, which it does not know.
 */

#include <linux/kallsyms.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/utsname.h>

static bool expected(const char *caller)
{
	/* The caller itself, or what a kretprobe or function graph has return. */
	return str_has_prefix(caller, "seq_read_iter") ||
	       str_has_prefix(caller, "arch_rethook_trampoline") ||
	       str_has_prefix(caller, "return_to_handler");
}

static int livepatch_version_proc_show(struct seq_file *m, void *v)
{
	char caller[KSYM_SYMBOL_LEN];

	sprint_symbol(caller, (unsigned long)__builtin_return_address(0));
	seq_printf(m, "%s version %s%s\n", utsname()->sysname, utsname()->release,
		   expected(caller) ? ", livepatched" : "");
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
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_trampoline_unknown_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_trampoline_unknown_exit(void)
{
}

module_init(klp_bad_trampoline_unknown_init);
module_exit(klp_bad_trampoline_unknown_exit);
MODULE_DESCRIPTION("Livepatch whose new function knows some tracers alone");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
