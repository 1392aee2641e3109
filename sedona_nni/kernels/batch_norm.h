/* Batch norm in training mode with the activation that follows it, and the same on dual numbers.

Notation as in `sedona_nni/searches/sedona/dual_norm.py`, for one channel of M pixels:
    x, t      values and tangents                 e, f      cotangents of the results
    v         x - mean                            s         1 / sqrt(var + eps), so z = s v
    w, b      weight and bias, tangents w', b'    a(u)      u where u > 0, else slope u

`slope` is 0 for ReLU, 1 for no activation, and what it is for a leaky ReLU. a'(u), 1 or slope, is
not kept: u = w s v + b is computed again.

Maps are (M, C): channels lie side by side, pixel by pixel. Loops run over strips of whole pixels,
long enough for vectors, with what belongs to a channel repeated along a strip. A strip's numbers
are added to `partial` sums, one each, and these after every few strips to sums in double: no
number is added to a much greater one, which float would round (`sedona_nni/models/batch_norm.py`).

Every pass is divided into `shares` of strips, each with sums of its own, which are added up in
their order: results depend on their number, not on the threads that there are for them.
*/

#ifndef STRIP
#define STRIP 1024 /* numbers, if C is no larger */
#define FLUSH 128  /* strips */
#define FOR_EACH(j, len) _Pragma("omp simd") for (size_t j = 0; j < len; j++)
#define FOR_SHARES(i) \
    _Pragma("omp parallel for num_threads(shares) if(shares > 1)") for (size_t i = 0; i < shares; i++)
#define FOR_STRIPS(at, len, i) \
    for (size_t at = share_start(M, C, i, shares), end = share_start(M, C, i + 1, shares), len; \
         at < end && (len = end - at < S ? end - at : S); at += S)

static size_t strip_length(size_t C) { return C > STRIP ? C : STRIP / C * C; }
static size_t share_start(size_t M, size_t C, size_t i, size_t shares)
{
    const size_t S = strip_length(C), strips = (M * C + S - 1) / S, start = strips * i / shares * S;
    return start < M * C ? start : M * C;
}
#endif

/* row[j] = of_channel[j mod C] */
static void KERNEL(repeat)(REAL *row, const double *of_channel, size_t C, size_t S)
{
    for (size_t c = 0; c < C; c++) row[c] = (REAL)of_channel[c];
    for (size_t j = C; j < S; j += C) memcpy(row + j, row, C * sizeof(REAL));
}
static void KERNEL(repeat_row)(REAL *row, const REAL *of_channel, size_t C, size_t S)
{
    for (size_t j = 0; j < S; j += C) memcpy(row + j, of_channel, C * sizeof(REAL));
}

/* Add K rows of partial sums to sums[K][C], and clear them. */
static void KERNEL(collect)(double *sums, REAL *partial, size_t K, size_t C, size_t S)
{
    for (size_t k = 0; k < K; k++)
        for (size_t j = 0; j < S; j += C)
            for (size_t c = 0; c < C; c++) sums[k * C + c] += partial[k * S + j + c];
    memset(partial, 0, K * S * sizeof(REAL));
}

/* sums[n] = the shares' sums[shares][n], one after the other */
static void KERNEL(add_shares)(double *sums, const double *of_shares, size_t n, size_t shares)
{
    for (size_t i = 0; i < shares; i++)
        for (size_t k = 0; k < n; k++) sums[k] += of_shares[i * n + k];
}

/* (x, t, w, w', b, b') -> y = a(u), y' = a'(u) u', with u' = w s (t - m(t) - z m(z t)) + w' z + b'.

    t may be NULL, as may w' and b' then: values alone.
    moments   4 rows of C: mean, s, m(z t), m(t); the last two only with t
    running   NULL, or 2 rows of C: running mean and variance, moved by momentum
Returns 0, or 1 if there is no memory. */
int KERNEL(normalise)(const REAL *x, const REAL *t, const REAL *w, const REAL *w_t, const REAL *b,
                      const REAL *b_t, double eps, double slope, size_t M, size_t C,
                      size_t shares, REAL *y, REAL *y_t, double *moments, REAL *running_mean,
                      REAL *running_var, double momentum)
{
    const size_t S = strip_length(C), K = t ? 4 : 2;
    REAL *rows = calloc((5 + shares * K) * S, sizeof(REAL));
    double *sums = calloc((7 + shares * K) * C, sizeof(double));
    if (!rows || !sums) return free(rows), free(sums), 1;
    double *mean = moments, *s = moments + C, *m_zt = moments + 2 * C, *m_t = moments + 3 * C;

    /* Sums of d, d^2, t and d t, where d = x - (the first pixel), which is near the mean */
    REAL *first = rows, *partial = rows + 5 * S;
    KERNEL(repeat_row)(first, x, C, S);
    FOR_SHARES(i) {
        REAL *p0 = partial + i * K * S, *p1 = p0 + S, *p2 = p1 + S, *p3 = p2 + S;
        double *own = sums + (7 + i * K) * C;
        size_t strips = 0;
        FOR_STRIPS(at, len, i) {
            const REAL *x_ = x + at, *t_ = t ? t + at : NULL;
            if (t)
                FOR_EACH(j, len) {
                    const REAL d = x_[j] - first[j];
                    p0[j] += d;
                    p1[j] += d * d;
                    p2[j] += t_[j];
                    p3[j] += d * t_[j];
                }
            else
                FOR_EACH(j, len) {
                    const REAL d = x_[j] - first[j];
                    p0[j] += d;
                    p1[j] += d * d;
                }
            if (++strips % FLUSH == 0) KERNEL(collect)(own, p0, K, C, S);
        }
        KERNEL(collect)(own, p0, K, C, S);
    }
    KERNEL(add_shares)(sums, sums + 7 * C, K * C, shares);

    double *scale = sums + 4 * C, *along_v = sums + 5 * C, *constant = sums + 6 * C;
    for (size_t c = 0; c < C; c++) {
        const double d = sums[c] / M, var = fmax(sums[C + c] / M - d * d, 0.0);
        mean[c] = x[c] + d;
        s[c] = 1 / sqrt(var + eps);
        scale[c] = w[c] * s[c];
        if (running_mean) {
            running_mean[c] += momentum * (mean[c] - running_mean[c]);
            running_var[c] += momentum * (var * M / (M - 1) - running_var[c]);
        }
        if (!t) continue;
        m_t[c] = sums[2 * C + c] / M;
        m_zt[c] = s[c] * (sums[3 * C + c] / M - d * m_t[c]);
        along_v[c] = s[c] * (w_t[c] - scale[c] * m_zt[c]);
        constant[c] = b_t[c] - scale[c] * m_t[c];
    }

    REAL *r_mean = rows, *r_scale = rows + S, *r_bias = rows + 2 * S, *r_along = rows + 3 * S,
         *r_constant = rows + 4 * S;
    KERNEL(repeat)(r_mean, mean, C, S);
    KERNEL(repeat)(r_scale, scale, C, S);
    KERNEL(repeat_row)(r_bias, b, C, S);
    if (t) {
        KERNEL(repeat)(r_along, along_v, C, S);
        KERNEL(repeat)(r_constant, constant, C, S);
    }
    const REAL below = (REAL)slope;
    FOR_SHARES(i) FOR_STRIPS(at, len, i) {
        const REAL *x_ = x + at, *t_ = t ? t + at : NULL;
        REAL *y_ = y + at, *y_t_ = t ? y_t + at : NULL;
        if (t)
            FOR_EACH(j, len) {
                const REAL v = x_[j] - r_mean[j], u = r_scale[j] * v + r_bias[j];
                const REAL a = u > 0 ? 1 : below;
                y_[j] = a * u;
                y_t_[j] = a * (r_scale[j] * t_[j] + r_along[j] * v + r_constant[j]);
            }
        else
            FOR_EACH(j, len) {
                const REAL v = x_[j] - r_mean[j], u = r_scale[j] * v + r_bias[j];
                const REAL a = u > 0 ? 1 : below;
                y_[j] = a * u;
            }
    }
    free(rows);
    free(sums);
    return 0;
}

/* e -> cotangents of x, w and b: to x  w s (e - m(e) - z m(z e)),  to w  sum(z e),  to b  sum(e),
with e times a'(u) for e. Returns as above. */
int KERNEL(normalise_back)(const REAL *e, const REAL *x, const REAL *w, const REAL *b, double slope,
                           size_t M, size_t C, size_t shares, const double *moments, REAL *to_x,
                           REAL *to_w, REAL *to_b)
{
    const size_t S = strip_length(C);
    REAL *rows = calloc((5 + shares * 2) * S, sizeof(REAL));
    double *sums = calloc((5 + shares * 2) * C, sizeof(double));
    if (!rows || !sums) return free(rows), free(sums), 1;
    const double *mean = moments, *s = moments + C;
    double *scale = sums + 2 * C, *along_v = sums + 3 * C, *constant = sums + 4 * C;
    REAL *r_mean = rows, *r_scale = rows + S, *r_bias = rows + 2 * S, *r_along = rows + 3 * S,
         *r_constant = rows + 4 * S, *partial = rows + 5 * S;
    for (size_t c = 0; c < C; c++) scale[c] = w[c] * s[c];
    KERNEL(repeat)(r_mean, mean, C, S);
    KERNEL(repeat)(r_scale, scale, C, S);
    KERNEL(repeat_row)(r_bias, b, C, S);
    const REAL below = (REAL)slope;

    FOR_SHARES(i) {
        REAL *p0 = partial + i * 2 * S, *p1 = p0 + S;
        double *own = sums + (5 + i * 2) * C;
        size_t strips = 0;
        FOR_STRIPS(at, len, i) {
            const REAL *x_ = x + at, *e_ = e + at;
            FOR_EACH(j, len) {
                const REAL v = x_[j] - r_mean[j], u = r_scale[j] * v + r_bias[j];
                const REAL a = u > 0 ? 1 : below, g = a * e_[j];
                p0[j] += g;
                p1[j] += g * v;
            }
            if (++strips % FLUSH == 0) KERNEL(collect)(own, p0, 2, C, S);
        }
        KERNEL(collect)(own, p0, 2, C, S);
    }
    KERNEL(add_shares)(sums, sums + 5 * C, 2 * C, shares);

    for (size_t c = 0; c < C; c++) {
        to_b[c] = sums[c];
        to_w[c] = s[c] * sums[C + c];
        along_v[c] = -scale[c] * s[c] * s[c] * sums[C + c] / M;
        constant[c] = -scale[c] * sums[c] / M;
    }
    KERNEL(repeat)(r_along, along_v, C, S);
    KERNEL(repeat)(r_constant, constant, C, S);
    FOR_SHARES(i) FOR_STRIPS(at, len, i) {
        const REAL *x_ = x + at, *e_ = e + at;
        REAL *to_x_ = to_x + at;
        FOR_EACH(j, len) {
            const REAL v = x_[j] - r_mean[j], u = r_scale[j] * v + r_bias[j];
            const REAL a = u > 0 ? 1 : below, g = a * e_[j];
            to_x_[j] = r_scale[j] * g + r_along[j] * v + r_constant[j];
        }
    }
    free(rows);
    free(sums);
    return 0;
}

/* (e, f) -> cotangents of x, t, w and b, by the formulas of `dual_norm.py`, with a'(u) e and a'(u) f
for e and f. P and the means are linear, so that all of it follows from five sums, and each result is
e, f, t and v by a factor per channel, and a constant.

    e                    NULL is 0
    to_mean, to_var      NULL is 0; else C cotangents u, v of the batch's mean and unbiased variance
    to_x, to_w, to_b     may be NULL, all of them: only that to t then
Returns as above. */
int KERNEL(dual_normalise_back)(const REAL *e, const REAL *f, const REAL *x, const REAL *t,
                                const REAL *w, const REAL *w_t, const REAL *b, double slope,
                                size_t M, size_t C, size_t shares, const double *moments,
                                const REAL *to_mean, const REAL *to_var, REAL *to_x, REAL *to_t,
                                REAL *to_w, REAL *to_b)
{
    const size_t S = strip_length(C);
    REAL *rows = calloc((11 + shares * 5) * S, sizeof(REAL));
    double *sums = calloc((13 + shares * 5) * C, sizeof(double));
    if (!rows || !sums) return free(rows), free(sums), 1;
    const double *mean = moments, *s = moments + C, *m_zt = moments + 2 * C, *m_t = moments + 3 * C;
    double *scale = sums + 5 * C;
    REAL *zeros = rows, *r_mean = rows + S, *r_scale = rows + 2 * S, *r_bias = rows + 3 * S,
         *factors = rows + 4 * S, *partial = rows + 11 * S;
    for (size_t c = 0; c < C; c++) scale[c] = w[c] * s[c];
    KERNEL(repeat)(r_mean, mean, C, S);
    KERNEL(repeat)(r_scale, scale, C, S);
    KERNEL(repeat_row)(r_bias, b, C, S);
    const REAL below = (REAL)slope;

    /* Sums of f, f v; e, e v, f t */
    FOR_SHARES(i) {
        REAL *p0 = partial + i * 5 * S, *p1 = p0 + S, *p2 = p1 + S, *p3 = p2 + S, *p4 = p3 + S;
        double *own = sums + (13 + i * 5) * C;
        size_t strips = 0;
        FOR_STRIPS(at, len, i) {
            const REAL *x_ = x + at, *t_ = t + at, *e_ = e ? e + at : zeros, *f_ = f + at;
            if (to_x)
                FOR_EACH(j, len) {
                    const REAL v = x_[j] - r_mean[j], u = r_scale[j] * v + r_bias[j];
                    const REAL a = u > 0 ? 1 : below, g = a * e_[j], h = a * f_[j];
                    p0[j] += h;
                    p1[j] += h * v;
                    p2[j] += g;
                    p3[j] += g * v;
                    p4[j] += h * t_[j];
                }
            else
                FOR_EACH(j, len) {
                    const REAL v = x_[j] - r_mean[j], u = r_scale[j] * v + r_bias[j];
                    const REAL a = u > 0 ? 1 : below, h = a * f_[j];
                    p0[j] += h;
                    p1[j] += h * v;
                }
            if (++strips % FLUSH == 0) KERNEL(collect)(own, p0, 5, C, S);
        }
        KERNEL(collect)(own, p0, 5, C, S);
    }
    KERNEL(add_shares)(sums, sums + 13 * C, 5 * C, shares);

    double *t_v = sums + 6 * C, *t_1 = sums + 7 * C; /* to t: scale f + t_v v + t_1 */
    double *x_f = sums + 9 * C, *x_t = sums + 10 * C, *x_v = sums + 11 * C,
           *x_1 = sums + 12 * C; /* to x: scale e + x_f f + x_t t + x_v v + x_1 */
    for (size_t c = 0; c < C; c++) {
        const double m_f = sums[c] / M, m_zf = s[c] * sums[C + c] / M;
        t_v[c] = -scale[c] * m_zf * s[c];
        t_1[c] = -scale[c] * m_f;
        if (!to_x) continue;
        const double m_e = sums[2 * C + c] / M, m_ze = s[c] * sums[3 * C + c] / M;
        const double q = sums[4 * C + c] / M - m_f * m_t[c] - m_zf * m_zt[c];
        /* `inner` is what P is applied to: w e + of_f f + of_t t */
        const double of_f = w_t[c] - scale[c] * m_zt[c], of_t = -scale[c] * m_zf;
        const double m_inner = w[c] * m_e + of_f * m_f + of_t * m_t[c];
        const double m_z_inner = w[c] * m_ze + of_f * m_zf + of_t * m_zt[c];
        const double of_z = (to_var ? 2 * to_var[c] / ((M - 1) * s[c]) : 0) - s[c] * scale[c] * q;
        x_f[c] = s[c] * of_f;
        x_t[c] = s[c] * of_t;
        x_v[c] = s[c] * (of_z - s[c] * m_z_inner);
        x_1[c] = (to_mean ? to_mean[c] / M : 0) - s[c] * m_inner;
        to_w[c] = M * (m_ze + s[c] * q);
        to_b[c] = M * m_e;
    }
    REAL *r_t_v = factors, *r_t_1 = r_t_v + S, *r_x_f = r_t_1 + S, *r_x_t = r_x_f + S,
         *r_x_v = r_x_t + S, *r_x_1 = r_x_v + S;
    KERNEL(repeat)(r_t_v, t_v, C, S);
    KERNEL(repeat)(r_t_1, t_1, C, S);
    KERNEL(repeat)(r_x_f, x_f, C, S);
    KERNEL(repeat)(r_x_t, x_t, C, S);
    KERNEL(repeat)(r_x_v, x_v, C, S);
    KERNEL(repeat)(r_x_1, x_1, C, S);
    FOR_SHARES(i) FOR_STRIPS(at, len, i) {
        const REAL *x_ = x + at, *t_ = t + at, *e_ = e ? e + at : zeros, *f_ = f + at;
        REAL *to_t_ = to_t + at, *to_x_ = to_x ? to_x + at : NULL;
        if (to_x)
            FOR_EACH(j, len) {
                const REAL v = x_[j] - r_mean[j], u = r_scale[j] * v + r_bias[j];
                const REAL a = u > 0 ? 1 : below, g = a * e_[j], h = a * f_[j];
                to_t_[j] = r_scale[j] * h + r_t_v[j] * v + r_t_1[j];
                to_x_[j] = r_scale[j] * g + r_x_f[j] * h + r_x_t[j] * t_[j] + r_x_v[j] * v + r_x_1[j];
            }
        else
            FOR_EACH(j, len) {
                const REAL v = x_[j] - r_mean[j], u = r_scale[j] * v + r_bias[j];
                const REAL a = u > 0 ? 1 : below, h = a * f_[j];
                to_t_[j] = r_scale[j] * h + r_t_v[j] * v + r_t_1[j];
            }
    }
    free(rows);
    free(sums);
    return 0;
}
