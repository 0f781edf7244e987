// What lies between the products of a plain decoder's gradient, each in one pass over memory.
// T is the products' dtype, BFLOAT16 makes it that; all else is float32. Rows are contiguous.
// Compiled, loaded and called by between.py, whose `Torch` says the same in operations of torch.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

template <class To, class From> static inline To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

#ifdef BFLOAT16
struct T { uint16_t half; };
static inline float read(T x) { return bits<float>(uint32_t(x.half) << 16); }
static inline void write(T &place, float x) {  // to nearest, ties to even; no number stays none
    uint32_t u = bits<uint32_t>(x), rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
    place.half = uint16_t((u & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}
#else
typedef float T;
static inline float read(T x) { return x; }
static inline void write(T &place, float x) { place = x; }
#endif

// e^x of x not above zero, to two units in the last place (Cephes, expf); zero below e^-87.
static inline float exponential(float x) {
    float y = x < -87.0f ? -87.0f : x, n = std::nearbyint(y * 1.44269504f);
    float r = y - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r * r + r + 1.0f) * bits<float>((int32_t(n) + 127) << 23);
    return x < -87.0f ? 0 : p;
}

// An integer that grows with x: compilers take maxima of those alone many at a time.
static inline int32_t order(float x) {
    int32_t i = bits<int32_t>(x);
    return i ^ (i >> 31 & 0x7fffffff);
}

// e to each of x + mask less their largest; the sum.
static inline float exponentials(const T *__restrict x, const float *__restrict mask,
                                 float *__restrict e, long size) {
    int32_t top = INT32_MIN;
    float sum = 0;
    for (long i = 0; i < size; i++) e[i] = read(x[i]) + mask[i];
    for (long i = 0; i < size; i++) top = order(e[i]) > top ? order(e[i]) : top;
    float largest = bits<float>(top ^ (top >> 31 & 0x7fffffff));
    for (long i = 0; i < size; i++) e[i] = exponential(e[i] - largest);
    for (long i = 0; i < size; i++) sum += e[i];
    return sum;
}

// As many of `all` as hold the n first and fill whole registers.
static inline long whole(long n, long all) {
    n = (n + 31) & ~31l;
    return n < all ? n : all;
}

extern "C" {

// x = before + more + bias, where there are; y = x normalized times gain.
void normalize(const float *__restrict before, const T *__restrict more,
               const T *__restrict bias, const float *__restrict gain, float *__restrict x,
               T *__restrict y, float *mean, float *rstd, float epsilon, long rows, long width) {
    for (long r = 0; r < rows; r++, before += width, x += width, y += width) {
        float sum = 0, square = 0;
        for (long i = 0; i < width; i++) x[i] = before[i];
        if (more)
            for (long i = 0; i < width; i++) x[i] += read(more[i]);
        if (bias)
            for (long i = 0; i < width; i++) x[i] += read(bias[i]);
        for (long i = 0; i < width; i++) sum += x[i];
        float m = sum / width;
        for (long i = 0; i < width; i++) square += (x[i] - m) * (x[i] - m);
        float s = 1 / std::sqrt(square / width + epsilon);
        for (long i = 0; i < width; i++) write(y[i], (x[i] - m) * s * gain[i]);
        mean[r] = m;
        rstd[r] = s;
        if (more) more += width;
    }
}

// Adds to dx what dy, the gradient of the normalized rows, makes of it; `low`, if any, is dx in T.
void normalize_back(float *__restrict dx, T *__restrict low, const T *__restrict dy,
                    const float *__restrict x, const float *mean, const float *rstd,
                    const float *__restrict gain, float *__restrict dgain, long rows, long width) {
    for (long i = 0; i < width; i++) dgain[i] = 0;
    for (long r = 0; r < rows; r++, dx += width, dy += width, x += width) {
        float a = 0, b = 0, m = mean[r], s = rstd[r];
        for (long i = 0; i < width; i++) {
            float g = read(dy[i]), n = (x[i] - m) * s;
            dgain[i] += g * n;
            a += g * gain[i];
            b += g * gain[i] * n;
        }
        a /= width, b /= width;
        for (long i = 0; i < width; i++)
            dx[i] += (read(dy[i]) * gain[i] - a - (x[i] - m) * s * b) * s;
        if (!low) continue;
        for (long i = 0; i < width; i++) write(low[i], dx[i]);
        low += width;
    }
}

// GELU of h + bias; leaves its slope in h. The error function to 1.5e-7: Abramowitz and Stegun,
// 7.1.26, as in torch.
void gelu(T *__restrict h, const T *__restrict bias, T *__restrict after, long rows, long width) {
    for (long r = 0; r < rows; r++, h += width, after += width)
        for (long i = 0; i < width; i++) {
            float x = read(h[i]) + read(bias[i]), z = std::fabs(x) * 0.70710678f;
            float e = exponential(-z * z), t = 1 / (1 + 0.3275911f * z), p = 1.061405429f;
            p = p * t - 1.453152027f;
            p = p * t + 1.421413741f;
            p = p * t - 0.284496736f;
            p = p * t + 0.254829592f;
            float tail = 0.5f * e * t * p, chance = x < 0 ? tail : 1 - tail;
            write(after[i], x * chance);
            write(h[i], chance + x * e * 0.39894228f);
        }
}

// dh times the slope, and its sum over rows.
void gelu_back(T *__restrict dh, const T *__restrict slope, T *dbias, long rows, long width) {
    std::vector<float> sums(width);
    float *__restrict sum = sums.data();
    for (long r = 0; r < rows; r++, dh += width, slope += width)
        for (long i = 0; i < width; i++) {
            float g = read(dh[i]) * read(slope[i]);
            sum[i] += g;
            write(dh[i], g);
        }
    for (long i = 0; i < width; i++) write(dbias[i], sum[i]);
}

// Chances of scores (rows, time) up to each row's own time, row modulo time.
void softmax(const T *__restrict score, T *__restrict chance, long rows, long time) {
    std::vector<float> row(time), mask(2 * time);
    for (long i = time; i < 2 * time; i++) mask[i] = -INFINITY;
    for (long r = 0; r < rows; r++, score += time, chance += time) {
        long n = r % time + 1, all = whole(n, time);
        float *__restrict e = row.data();
        float share = 1 / exponentials(score, mask.data() + time - n, e, all);
        for (long i = 0; i < all; i++) write(chance[i], e[i] * share);
        memset(chance + all, 0, (time - all) * sizeof(T));
    }
}

// The scores' gradient, in place of the chances'.
void softmax_back(T *__restrict d, const T *__restrict chance, long rows, long time) {
    for (long r = 0; r < rows; r++, d += time, chance += time) {
        long all = whole(r % time + 1, time);
        float dot = 0;
        for (long i = 0; i < all; i++) dot += read(d[i]) * read(chance[i]);
        for (long i = 0; i < all; i++) write(d[i], (read(d[i]) - dot) * read(chance[i]));
        memset(d + all, 0, (time - all) * sizeof(T));
    }
}

// Rows (batch, time, parts, heads, size) to heads (parts, batch, heads, time, size), or back.
void by_head(T *rows, T *own_rows, long back, long parts, long batch, long heads, long time,
             long size) {
    for (long b = 0; b < batch; b++)
        for (long p = 0; p < parts; p++)
            for (long h = 0; h < heads; h++) {
                T *row = rows + ((b * time * parts + p) * heads + h) * size;
                T *own = own_rows + ((p * batch + b) * heads + h) * time * size;
                for (long t = 0; t < time; t++, row += parts * heads * size, own += size)
                    memcpy(back ? row : own, back ? own : row, size * sizeof(T));
            }
}

// Chances of each row's target; how much the logits raise their negated logarithms' sum.
void score(const T *logit, T *slope, const int64_t *target, float *chance, long rows, long size) {
    std::vector<float> row(size), mask(size);
    for (long r = 0; r < rows; r++, logit += size, slope += size) {
        float share = 1 / exponentials(logit, mask.data(), row.data(), size);
        chance[r] = row[target[r]] * share;
        for (long i = 0; i < size; i++) write(slope[i], row[i] * share);
        write(slope[target[r]], chance[r] - 1);
    }
}

void round_all(const float *__restrict exact, T *__restrict rounded, long size) {
    for (long i = 0; i < size; i++) write(rounded[i], exact[i]);
}

void widen_all(const T *__restrict rounded, float *__restrict exact, long size) {
    for (long i = 0; i < size; i++) exact[i] = read(rounded[i]);
}

}
