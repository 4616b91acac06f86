// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_shadow_paths.c - make shadow variables by two paths that look alike
 *
 * Purpose: let the tests see whether klpshadow tells two paths apart that have
 * one caller of klp_shadow_alloc() and go down the kernel stack as far:
 *
 *   init, klp_first(),  klp_make(): variables of the id 1
 *   init, klp_second(), klp_make(): variables of the id 2
 *
 * Each is gone twice, and freed again.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/compiler.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/livepatch.h>
#include <linux/module.h>

static char objects[2];

static noinline __noclone int klp_make(void *obj, unsigned long id)
{
	bool made = klp_shadow_alloc(obj, id, 8, GFP_KERNEL, NULL, NULL);

	barrier(); /* no tail calls: each function is to be on the stack */
	return made;
}

static noinline __noclone int klp_first(void *obj)
{
	int made = klp_make(obj, 1);

	barrier();
	return made;
}

static noinline __noclone int klp_second(void *obj)
{
	int made = klp_make(obj, 2);

	barrier();
	return made;
}

static int __init shadow_paths_init(void)
{
	int i, made = 0;

	for (i = 0; i < ARRAY_SIZE(objects); i++) {
		made += klp_first(objects + i);
		made += klp_second(objects + i);
	}
	klp_shadow_free_all(1, NULL);
	klp_shadow_free_all(2, NULL);
	pr_info("made=%d\n", made);
	return 0;
}

static void __exit shadow_paths_exit(void)
{
}

module_init(shadow_paths_init);
module_exit(shadow_paths_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Shadow variables made by two paths that look alike");
