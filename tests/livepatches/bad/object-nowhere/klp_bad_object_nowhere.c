// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_bad_object_nowhere.c - a livepatch of a module that no kernel has
 *
 * Purpose: change what klp_vault.ko answers.
 *
 * Fault: nobody has such a module, so that nothing is changed. The kernel enables
 * it all the same, for one might come later.
 */

#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static int livepatch_vault_answer(int from)
{
	return from * 6;
}

static struct klp_func funcs[] = {
	{
		.old_name = "klp_vault_answer",
		.new_func = livepatch_vault_answer,
	}, { }
};

static struct klp_object objs[] = {
	{
		.name = "klp_vault",
		.funcs = funcs,
	}, { }
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static int __init klp_bad_object_nowhere_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit klp_bad_object_nowhere_exit(void)
{
}

module_init(klp_bad_object_nowhere_init);
module_exit(klp_bad_object_nowhere_exit);
MODULE_DESCRIPTION("Livepatch of a module that no kernel has");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
