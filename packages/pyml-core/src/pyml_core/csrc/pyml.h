/* pyml.h: all headers of the extension module; structs.pxd declares their contents to Cython. */
#ifndef PYML_H
#define PYML_H

#include "clock.h"
#include "continue.h"
#include "demand.h"
#include "formats.h"
#include "lock.h"
#include "pool.h"
#include "program.h"
#include "read.h"
#include "sample.h"
#include "types.h"

#endif
