/* The numbers of this run, for hfld.c and hfld_view.c. */

#ifndef HFLD_CONFIG_H
#define HFLD_CONFIG_H

#include <stdint.h>

#include "hfld_network.h"

/* From this doubt on the answer is "unsure", as set on the validation recordings. */
#ifdef HFLD_FLOAT32
#define HFLD_LIMIT {{ exact }}
#else
#define HFLD_LIMIT {{ small }}
#endif

#define HFLD_NAMES {{ names }}
#define HFLD_ANSWERS {{ answers }}

{{ view }}
#endif
