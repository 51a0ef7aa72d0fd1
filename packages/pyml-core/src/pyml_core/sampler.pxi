# The choice of the next token: see csrc/sample.h and csrc/level/sample.c.

_RULES = ("logit_bias", "repetition_penalty", "frequency_penalty", "presence_penalty", "temperature", "top_k", "top_p",
          "min_p", "typical_p")
cdef uint64_t _ALL_BITS = 0xFFFFFFFFFFFFFFFF


cdef class _Scratch:
    """Memory of a choice."""

    cdef object memory
    cdef int64_t room

    cdef void *of(self, int64_t n) except NULL:
        """Room for ``n`` logits. Its pages take memory as they are used."""
        if self.memory is None or n > self.room:
            self.memory, self.room = aligned_empty((pyml_sample_scratch(n),), np.uint8), n
        return _address(self.memory)


cdef class Sampler:
    """The rules by which the tokens of one text are chosen, and the tokens that it has.

    ``logit_bias`` and penalties apply to tokens; everything is defined by the functions of :mod:`pyml_core.sampling`.

    Args:
        rules: SamplingRules, how to choose.
        sequence: number of the text among those generated together; the noise depends on it.
        vocabulary: V, more than any token.
        prompt: tokens that were given, for the penalties.
        generated: tokens that were chosen.
        logprobs: report the log probability of the chosen token and this many of the most probable tokens; None: none.

    Raises:
        ShapeError: a token that is not in the vocabulary, or a vocabulary that is too large.
    """

    cdef pyml_sampler s
    cdef readonly object rules
    cdef readonly int64_t vocabulary
    cdef list bias           # arrays of its tokens and amounts
    cdef object mask         # uint32 array
    cdef object scratch_of   # _Scratch
    cdef object top          # arrays of ids and log probabilities
    cdef const pyml_kernels *kernels

    def __cinit__(self, rules, sequence, int64_t vocabulary, prompt=(), generated=(), logprobs=None):
        if not 0 < vocabulary <= SAMPLE_MAX_LOGITS:
            raise ShapeError(f"sampler: expected a vocabulary of 1 to {SAMPLE_MAX_LOGITS} tokens, got {vocabulary}")
        self.rules, self.vocabulary = rules, vocabulary
        self.scratch_of, self.kernels = _Scratch(), _sample_kernels(None)
        self._set_rules(rules)
        self.s.seed = rules.seed & _ALL_BITS
        self.s.sequence = sequence & _ALL_BITS
        self.s.logprobs = -1 if logprobs is None else min(PyNumber_Index(logprobs), vocabulary)
        if self.s.logprobs >= 0:
            self.top = np.empty(self.s.logprobs, np.int32), np.empty(self.s.logprobs, np.float64)
        if self.s.penalised:
            prompt, generated = _token_array(prompt, vocabulary), _token_array(generated, vocabulary)
            self._count(prompt, generated)

    def __dealloc__(self):
        pyml_sampler_free(&self.s)

    cdef int _set_rules(self, rules) except -1:
        cdef tuple order = rules.order
        if len(set(order)) != len(order) or not set(order) <= set(_RULES):
            raise ShapeError(f"sampler: expected names of rules, each once, got {', '.join(map(str, order))}")
        for name in order:
            self.s.rules[self.s.n_rules] = _RULES.index(name)
            self.s.n_rules += 1
        self.s.greedy, self.s.penalised = rules.greedy, rules.penalised
        self.s.temperature, self.s.top_k = rules.temperature, rules.top_k
        self.s.top_p, self.s.min_p, self.s.typical_p = rules.top_p, rules.min_p, rules.typical_p
        self.s.repetition_penalty = rules.repetition_penalty
        self.s.frequency_penalty, self.s.presence_penalty = rules.frequency_penalty, rules.presence_penalty
        tokens = _token_array([token for token, _ in rules.logit_bias], self.vocabulary)
        amounts = np.array([amount for _, amount in rules.logit_bias], np.float64)
        self.bias = [tokens, amounts]
        self.s.bias_token, self.s.bias = <const int32_t *>_address(tokens), <const double *>_address(amounts)
        self.s.n_bias = len(tokens)
        return 0

    cdef int _count(self, const int32_t[::1] prompt, const int32_t[::1] generated) except -1:
        cdef int64_t i
        self._reserve(prompt.shape[0] + generated.shape[0])
        for i in range(prompt.shape[0]):
            pyml_sampler_see(&self.s, prompt[i])
        for i in range(generated.shape[0]):
            pyml_sampler_add(&self.s, generated[i])
        return 0

    cdef int _reserve(self, int64_t more) except -1:
        """Make room for so many more different tokens."""
        if not pyml_sampler_reserve(&self.s, more):
            raise OutOfMemoryError("no memory for the tokens of a text")
        return 0

    def add(self, int64_t token):
        """Count one more generated token."""
        if not 0 <= token < self.vocabulary:
            raise ShapeError(f"sampler: token {token} is outside the vocabulary of {self.vocabulary}")
        self._reserve(1)
        pyml_sampler_add(&self.s, <int32_t>token)

    def set_mask(self, mask):
        """Allow only some tokens: uint32 (ceil(V / 32),), token t is bit t % 32 of number t // 32. None: all tokens.

        The array is used as it is, and may be changed between two choices.
        """
        if mask is None:
            self.s.mask, self.mask = NULL, None
            return
        if mask.dtype != np.uint32 or not mask.flags.c_contiguous or mask.size * 32 < self.vocabulary:
            raise ShapeError(f"sampler: expected a mask of {(self.vocabulary + 31) // 32} contiguous uint32, "
                             f"got {mask.size} of {mask.dtype}")
        self.s.mask, self.mask = <const uint32_t *>_address(mask), mask

    def choose(self, logits, position, ids=None, level=None):
        """Choose the token at ``position``; it is not added.

        Args:
            logits: float32 (V,), or (C,) with ``ids``; left as it is. Fewer than V: of tokens 0, 1, 2, ...
            position: where the chosen token will stand in its sequence, prompt included.
            ids: int32 or int64 (C,), ascending: the tokens that the logits are of. Others are excluded.
            level: CPU level; None: the one that was in use when the sampler was made.

        Returns a SampledToken. Log probabilities need all logits, not ``ids``.

        Raises:
            PymlError: the logits have no finite largest value, or no token is left after a rule.
            ShapeError: logits or ids of the wrong type, or more than the vocabulary.
        """
        cdef int64_t place = position, n
        cdef pyml_sampled out
        cdef const float *row
        cdef const int32_t *tokens = NULL
        cdef const pyml_kernels *kernels = self.kernels if level is None else _sample_kernels(level)
        cdef void *scratch
        logits = _logit_array(logits, self.vocabulary)
        n = len(logits)
        if ids is not None:
            if self.s.logprobs >= 0:
                raise ShapeError("sampler: log probabilities need the logits of all tokens, got ids")
            ids = _token_array(ids, self.vocabulary)
            if len(ids) != n or (n > 1 and (np.diff(ids) <= 0).any()):
                raise ShapeError(f"sampler: expected {n} ascending ids, one a logit, got {len(ids)}")
            tokens = <const int32_t *>_address(ids)
        row, scratch = <const float *>_address(logits), (<_Scratch>self.scratch_of).of(n)
        self._connect(&out)
        with nogil:
            kernels.enter()
            kernels.sample(&self.s, place, row, tokens, n, scratch, &out)
        if out.status != SAMPLE_OK:
            self._raise_unsettled(&out, place)
        return self._token(&out, 0.0)

    cdef int _connect(self, pyml_sampled *out) except -1:
        """Let the most probable tokens be written to this sampler's arrays."""
        out.top_id, out.top_logprob = NULL, NULL
        if self.s.logprobs > 0:
            ids, logprobs = self.top
            out.top_id, out.top_logprob = <int32_t *>_address(ids), <double *>_address(logprobs)
        return 0

    cdef object _token(self, const pyml_sampled *out, double ms):
        if self.s.logprobs < 0:
            return SampledToken(out.token, out.logit, ms)
        return SampledToken(out.token, out.logit, ms, out.logprob, _pairs(out))

    cdef int _raise_unsettled(self, const pyml_sampled *out, int64_t position) except -1:
        """Raise the error of a choice that found no token."""
        if out.status == SAMPLE_NOT_FINITE:
            raise PymlError(f"the model's logits are not finite: logit {out.logit} for token {out.token} at position {position}")
        if out.status == SAMPLE_NO_TOKEN:
            name = "the grammar" if out.rule == RULE_MASK else _RULES[out.rule]
            raise PymlError(f"{name} leaves no token that could stand at position {position}")
        raise RuntimeError("expected logits that settle the choice")


cdef tuple _pairs(const pyml_sampled *out):
    cdef list pairs = []
    cdef int64_t i
    for i in range(out.n_top):
        pairs.append((out.top_id[i], out.top_logprob[i]))
    return tuple(pairs)


cdef const pyml_kernels *_sample_kernels(level) except NULL:
    from . import cpu  # imports this module

    return pyml_level_kernels(_level_index(cpu.level() if level is None else level))


cdef _logit_array(logits, int64_t vocabulary):
    if logits.dtype != np.float32 or logits.ndim != 1 or not 0 < len(logits) <= vocabulary:
        raise ShapeError(f"sampler: expected 1 to {vocabulary} float32 logits, got {logits.dtype} {logits.shape}")
    return np.ascontiguousarray(logits)


cdef _token_array(tokens, int64_t vocabulary):
    """Token ids as an int32 array."""
    if not isinstance(tokens, np.ndarray):
        tokens = np.fromiter(tokens, np.int64)
    if tokens.size and not (0 <= tokens.min() and tokens.max() < vocabulary):
        wrong = tokens.max() if tokens.min() >= 0 else tokens.min()
        raise ShapeError(f"sampler: token {wrong} is outside the vocabulary of {vocabulary}")
    return np.ascontiguousarray(tokens, np.int32)


def top_logprobs(logits, int64_t token, int64_t count, level=None):
    """The token's log probability, and the ``count`` most probable tokens with theirs, in order (ties: lower id first).

    These are the model's own: the softmax of its logits, float32 (V,), before bias, penalties, temperature and truncation.
    """
    cdef pyml_sampled out
    cdef const pyml_kernels *kernels = _sample_kernels(level)
    logits = _logit_array(logits, SAMPLE_MAX_LOGITS)
    cdef int64_t n = len(logits)
    if not 0 <= token < n:
        raise ShapeError(f"logprobs: token {token} is outside the {n} logits")
    cdef int32_t wanted = <int32_t>min(max(count, 0), n)
    cdef const float *row = <const float *>_address(logits)
    ids, values = np.empty(wanted, np.int32), np.empty(wanted, np.float64)
    out.token, out.top_id, out.top_logprob = token, <int32_t *>_address(ids), <double *>_address(values)
    memory = _Scratch()
    cdef void *scratch = (<_Scratch>memory).of(n)
    with nogil:
        kernels.enter()
        kernels.logprobs(row, n, wanted, scratch, &out)
    return out.logprob, _pairs(&out)


def elementary(str name, x, level=None):
    """``exp64`` or ``log64`` of float64 numbers, for comparison with :mod:`pyml_core.sampling.elementary`."""
    cdef const pyml_kernels *kernels = _sample_kernels(level)
    x = np.ascontiguousarray(x, np.float64)
    result = np.empty_like(x)
    kernels.elementary(name == "log64", <const double *>_address(x), x.size, <double *>_address(result))
    return result
