/* What Python loads: every kernel for float and for double, named e.g. normalise_float. */

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define JOIN_(name, type) name##_##type
#define JOIN(name, type) JOIN_(name, type)
#define KERNEL(name) JOIN(name, REAL)

/* Whether the compiler knows more of OpenMP than vectors. */
int divides_among_threads(void)
{
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

#define REAL float
#include "batch_norm.h"
#undef REAL

#define REAL double
#include "batch_norm.h"
#undef REAL
