// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_refused.c - livepatches that the kernel must refuse
 *
 * Purpose: hand klp_enable_patch() the mistake that is asked for, and let
 * insmod fail with what the kernel says to it. Without a mistake it is a
 * livepatch that works, of klp_refused_target.ko: what is refused is refused
 * for the mistake alone.
 *
 * Usage:
 *
 *   # insmod klp_refused_target.ko
 *   # insmod klp_refused.ko how=no_function
 *   insmod: ERROR: could not insert module klp_refused.ko: Invalid parameters
 *
 * Mistakes that are none: "no_objects" is a livepatch of nothing, and sympos=1
 * or 2 with "twin" is the way to patch one of two functions of one name.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kallsyms.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/string.h>

static char *how = "";
module_param(how, charp, 0444);
MODULE_PARM_DESC(how, "the mistake, see the table in the source (default: none)");

static uint sympos;
module_param(sympos, uint, 0444);
MODULE_PARM_DESC(sympos, "symbol position of how=twin (default=0)");

static int livepatch_refused_answer(int from)
{
	return from + 1;
}

static int livepatch_refused_other(int from)
{
	return from + 2;
}

/* Longer than any symbol's and any module's name may be. */
static char long_name[KSYM_NAME_LEN + 1];

static struct klp_func funcs[3] = {
	{
		.old_name = "klp_refused_answer",
		.new_func = livepatch_refused_answer,
	},
};

static struct klp_object objs[3] = {
	{
		.name = "klp_refused_target",
		.funcs = funcs,
	},
};

static struct klp_patch patch = {
	.mod = THIS_MODULE,
	.objs = objs,
};

static void no_function(void)
{
	funcs[0].old_name = "klp_refused_nowhere";
}

static void twin(void)
{
	funcs[0].old_name = "klp_refused_twin";
	funcs[0].old_sympos = sympos;
}

/* 6.12 has five functions of this name, and the others no fewer than two. */
static void ambiguous(void)
{
	objs[0].name = NULL;
	funcs[0].old_name = "enabled_store";
}

static void notrace_function(void)
{
	objs[0].name = NULL;
	funcs[0].old_name = "klp_ftrace_handler";
}

static void no_old_name(void)
{
	funcs[0].old_name = NULL;
}

static void no_new_func(void)
{
	funcs[0].new_func = NULL;
}

static void same_function(void)
{
	funcs[1].old_name = funcs[0].old_name;
	funcs[1].new_func = livepatch_refused_other;
}

static void long_function(void)
{
	funcs[0].old_name = memset(long_name, 'x', sizeof(long_name) - 1);
}

static void long_object(void)
{
	objs[0].name = memset(long_name, 'x', MODULE_NAME_LEN);
}

static void no_funcs(void)
{
	objs[0].funcs = NULL;
}

static void no_objects(void)
{
	memset(objs, 0, sizeof(objs));
}

static void null_objects(void)
{
	patch.objs = NULL;
}

static void no_module(void)
{
	patch.mod = NULL;
}

static const struct {
	const char *how;
	void (*make)(void);
} mistakes[] = {
	{ "no_function", no_function },
	{ "twin", twin },
	{ "ambiguous", ambiguous },
	{ "notrace", notrace_function },
	{ "no_old_name", no_old_name },
	{ "no_new_func", no_new_func },
	{ "same_function", same_function },
	{ "long_function", long_function },
	{ "long_object", long_object },
	{ "no_funcs", no_funcs },
	{ "no_objects", no_objects },
	{ "null_objects", null_objects },
	{ "no_module", no_module },
};

static int __init klp_refused_init(void)
{
	int i;

	if (!*how)
		return klp_enable_patch(&patch);
	if (!strcmp(how, "null"))
		return klp_enable_patch(NULL);

	for (i = 0; i < ARRAY_SIZE(mistakes); i++) {
		if (strcmp(how, mistakes[i].how))
			continue;
		mistakes[i].make();
		return klp_enable_patch(&patch);
	}
	pr_err("how=%s: no such mistake\n", how);
	return -ENOENT;
}

static void __exit klp_refused_exit(void)
{
}

module_init(klp_refused_init);
module_exit(klp_refused_exit);
MODULE_DESCRIPTION("Livepatches that the kernel must refuse");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
