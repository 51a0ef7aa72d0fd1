/* pyml.h: all that the extension module uses (structs.pxd declares it to Cython). C files include what they need of it.
 */
#ifndef PYML_H
#define PYML_H

#include "clock.h"
#include "formats.h"
#include "lock.h"
#include "pool.h"
#include "program.h"
#include "read.h"
#include "types.h"

#endif
