/* SPDX-License-Identifier: MIT */
#include "gateway/train/loss_plot.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* The page, and the frame of the curves in it. */
#define WIDTH 800
#define HEIGHT 480
#define LEFT 78
#define RIGHT 772
#define TOP 78
#define BOTTOM 414
#define TICKS 6        /* wanted, about */
#define SMOOTH_FROM 30 /* points above which a moving average is drawn too */

static const char training_colour[] = "#1f6fb4", evaluation_colour[] = "#c4421a";

void lorica_curve_add(struct lorica_curve *c, uint64_t step, double loss) {
    if (!isfinite(loss))
        return;
    if (c->count >= LORICA_CURVE_POINTS) /* no curve: bytes of a file */
        *c = (struct lorica_curve){.count = 0};
    if (c->each == 0)
        c->each = 1;
    c->last = loss;
    c->step_sum += (double)step;
    c->loss_sum += loss;
    if (++c->pending < c->each)
        return;
    const double n = (double)c->pending;
    c->points[c->count++] = (struct lorica_curve_point){c->step_sum / n, c->loss_sum / n};
    c->pending = 0;
    c->step_sum = c->loss_sum = 0;
    if (c->count < LORICA_CURVE_POINTS)
        return;
    for (size_t i = 0; i < LORICA_CURVE_POINTS / 2; i++) {
        const struct lorica_curve_point *a = &c->points[2 * i], *b = a + 1;
        c->points[i] =
            (struct lorica_curve_point){(a->step + b->step) / 2, (a->loss + b->loss) / 2};
    }
    c->count = LORICA_CURVE_POINTS / 2;
    c->each *= 2;
}

/* One axis: values from `low` to `high`, a number at each multiple of `tick`. */
struct axis {
    double low, high, tick;
    double from, to; /* on the page */
};

static double place(const struct axis *axis, double value) {
    return axis->from + (value - axis->low) / (axis->high - axis->low) * (axis->to - axis->from);
}

/* 1, 2 or 5 times a power of ten, so that about TICKS of them fill `range`. */
static double nice_tick(double range) {
    const double rough = range / TICKS, power = pow(10, floor(log10(rough))), rest = rough / power;
    return power * (rest < 1.5 ? 1 : rest < 3.5 ? 2 : rest < 7.5 ? 5 : 10);
}

static void widen(const struct lorica_curve *curve, struct axis *x, struct axis *y) {
    for (size_t i = 0; i < curve->count; i++) {
        x->low = fmin(x->low, curve->points[i].step);
        x->high = fmax(x->high, curve->points[i].step);
        y->low = fmin(y->low, curve->points[i].loss);
        y->high = fmax(y->high, curve->points[i].loss);
    }
}

static void make_axes(const struct lorica_loss_plot *plot, struct axis *x, struct axis *y) {
    *x = (struct axis){.low = 0, .high = 1, .from = LEFT, .to = RIGHT};
    *y = (struct axis){.low = INFINITY, .high = -INFINITY, .from = BOTTOM, .to = TOP};
    widen(plot->training, x, y);
    widen(plot->evaluation, x, y);
    if (!(y->low <= y->high)) /* no point at all */
        y->low = y->high = 0;
    /* Losses that hardly differ, or are all alike, still need a range; one that begins near 0
     * begins at 0. */
    const double least = fmax(1e-6, fabs(y->high) * 1e-3);
    if (y->high - y->low < least)
        y->high = y->low + least;
    if (y->low >= 0 && y->low < 0.5 * y->high)
        y->low = 0;
    y->tick = nice_tick(y->high - y->low);
    y->low = floor(y->low / y->tick) * y->tick;
    y->high = ceil(y->high / y->tick + 1e-9) * y->tick;
    x->tick = fmax(1, nice_tick(x->high - x->low));
}

static void put_escaped(struct lorica_buf *out, const char *text) {
    for (; *text; text++) {
        switch (*text) {
        case '<':
            (void)lorica_buf_puts(out, "&lt;");
            break;
        case '>':
            (void)lorica_buf_puts(out, "&gt;");
            break;
        case '&':
            (void)lorica_buf_puts(out, "&amp;");
            break;
        case '"':
            (void)lorica_buf_puts(out, "&quot;");
            break;
        default:
            if ((unsigned char)*text >= 0x20)
                (void)lorica_buf_append(out, text, 1);
        }
    }
}

static void put_text(struct lorica_buf *out, double x, double y, const char *attributes,
                     const char *text) {
    (void)lorica_buf_printf(out, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, attributes);
    put_escaped(out, text);
    (void)lorica_buf_puts(out, "</text>\n");
}

/* A line above the frame, smaller where its text is long. `wide`: how wide a letter of it is, in
 * sizes of the type. */
static void put_heading(struct lorica_buf *out, double y, double size, double wide,
                        const char *style, const char *text) {
    char attributes[96];
    const double fits = (RIGHT - LEFT) / (wide * fmax(1, (double)strlen(text)));
    (void)snprintf(attributes, sizeof(attributes), "font-size=\"%.3g\" %s", fmin(size, fits),
                   style);
    put_text(out, LEFT, y, attributes, text);
}

static void put_axes(struct lorica_buf *out, const struct axis *x, const struct axis *y) {
    char number[32];
    (void)lorica_buf_puts(out, "<g stroke=\"#dddddd\" stroke-width=\"1\">\n");
    for (double v = y->low; v <= y->high + y->tick / 2; v += y->tick)
        (void)lorica_buf_printf(out, "<path d=\"M%d %.1fH%d\"/>\n", LEFT, place(y, v), RIGHT);
    (void)lorica_buf_puts(out, "</g>\n<g fill=\"#333333\" font-size=\"13\">\n");
    const int digits = y->tick >= 1 ? 0 : (int)ceil(-log10(y->tick) - 1e-9);
    for (double v = y->low; v <= y->high + y->tick / 2; v += y->tick) {
        (void)snprintf(number, sizeof(number), "%.*f", digits, fabs(v) < y->tick / 2 ? 0 : v);
        put_text(out, LEFT - 8, place(y, v) + 4.5, "text-anchor=\"end\"", number);
    }
    for (double v = 0; v <= x->high + x->tick * 1e-6; v += x->tick) {
        (void)snprintf(number, sizeof(number), "%.0f", v);
        (void)lorica_buf_printf(out, "<path d=\"M%.1f %dv5\" stroke=\"#333333\"/>\n", place(x, v),
                                BOTTOM);
        put_text(out, place(x, v), BOTTOM + 20, "text-anchor=\"middle\"", number);
    }
    (void)lorica_buf_puts(out, "</g>\n<g fill=\"#111111\" font-size=\"14\">\n");
    put_text(out, (LEFT + RIGHT) / 2.0, BOTTOM + 46, "text-anchor=\"middle\"", "update");
    (void)lorica_buf_printf(out,
                            "<text transform=\"translate(22 %.1f) rotate(-90)\" "
                            "text-anchor=\"middle\">loss (nats per token)</text>\n</g>\n"
                            "<path d=\"M%d %dV%dH%d\" fill=\"none\" stroke=\"#333333\"/>\n",
                            (TOP + BOTTOM) / 2.0, LEFT, TOP, BOTTOM, RIGHT);
}

/* A curve through the points, or through their means over `window` neighbours. */
static void put_curve(struct lorica_buf *out, const struct lorica_curve *c, const struct axis *x,
                      const struct axis *y, size_t window, const char *attributes) {
    (void)lorica_buf_printf(out, "<polyline fill=\"none\" stroke-linejoin=\"round\" %s points=\"",
                            attributes);
    for (size_t i = 0; i < c->count; i++) {
        const size_t half = window / 2;
        const size_t reach = i < half ? i : half;
        const size_t around = c->count - 1 - i < reach ? c->count - 1 - i : reach;
        double sum = 0;
        for (size_t j = i - around; j <= i + around; j++)
            sum += c->points[j].loss;
        (void)lorica_buf_printf(out, "%s%.1f,%.1f", i ? " " : "", place(x, c->points[i].step),
                                place(y, sum / (double)(2 * around + 1)));
    }
    (void)lorica_buf_puts(out, "\"/>\n");
}

static void put_dots(struct lorica_buf *out, const struct lorica_curve *c, const struct axis *x,
                     const struct axis *y, const char *colour) {
    (void)lorica_buf_printf(out, "<g fill=\"#ffffff\" stroke=\"%s\" stroke-width=\"2\">\n", colour);
    for (size_t i = 0; i < c->count; i++)
        (void)lorica_buf_printf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\"/>\n",
                                place(x, c->points[i].step), place(y, c->points[i].loss));
    (void)lorica_buf_puts(out, "</g>\n");
}

static void put_training(struct lorica_buf *out, const struct lorica_curve *c, const struct axis *x,
                         const struct axis *y) {
    const bool smooth = c->count >= SMOOTH_FROM;
    char style[96];
    (void)snprintf(style, sizeof(style), "stroke=\"%s\" stroke-width=\"%s\"%s", training_colour,
                   smooth ? "1" : "2", smooth ? " opacity=\"0.45\"" : "");
    put_curve(out, c, x, y, 1, style);
    if (c->count == 1)
        put_dots(out, c, x, y, training_colour);
    (void)snprintf(style, sizeof(style), "stroke=\"%s\" stroke-width=\"2.5\"", training_colour);
    if (smooth)
        put_curve(out, c, x, y, c->count / 12, style);
}

static void put_evaluation(struct lorica_buf *out, const struct lorica_curve *c,
                           const struct axis *x, const struct axis *y) {
    char style[96];
    (void)snprintf(style, sizeof(style),
                   "stroke=\"%s\" stroke-width=\"2\" stroke-dasharray=\"7 4\"", evaluation_colour);
    /* Two points are no curve: what lies between them was not measured. */
    if (c->count > 2)
        put_curve(out, c, x, y, 1, style);
    if (c->count <= 60) /* more would hide the line */
        put_dots(out, c, x, y, evaluation_colour);
}

static void put_legend(struct lorica_buf *out, const struct lorica_loss_plot *plot) {
    char text[96];
    const bool both = plot->evaluation->count > 0;
    const bool smooth = plot->training->count >= SMOOTH_FROM;
    const int x = RIGHT - 292, y = TOP + 8;
    (void)lorica_buf_printf(out,
                            "<rect x=\"%d\" y=\"%d\" width=\"284\" height=\"%d\" fill=\"#ffffff\" "
                            "fill-opacity=\"0.9\" stroke=\"#bbbbbb\"/>\n<g font-size=\"13\" "
                            "fill=\"#111111\">\n",
                            x, y, both ? 52 : 30);
    (void)lorica_buf_printf(out, "<path d=\"M%d %dh32\" stroke=\"%s\" stroke-width=\"2.5\"/>\n",
                            x + 10, y + 15, training_colour);
    (void)snprintf(text, sizeof(text), "training%s, last %.3f", smooth ? " (bold: mean)" : "",
                   plot->training->last);
    put_text(out, x + 52, y + 19.5, "", text);
    if (both) {
        if (plot->evaluation->count > 2)
            (void)lorica_buf_printf(out,
                                    "<path d=\"M%d %dh32\" stroke=\"%s\" stroke-width=\"2\" "
                                    "stroke-dasharray=\"7 4\"/>\n",
                                    x + 10, y + 37, evaluation_colour);
        (void)lorica_buf_printf(out,
                                "<circle cx=\"%d\" cy=\"%d\" r=\"3.5\" fill=\"#ffffff\" "
                                "stroke=\"%s\" stroke-width=\"2\"/>\n",
                                x + 26, y + 37, evaluation_colour);
        (void)snprintf(text, sizeof(text), "held apart, last %.3f", plot->evaluation->last);
        put_text(out, x + 52, y + 41.5, "", text);
    }
    (void)lorica_buf_puts(out, "</g>\n");
}

int lorica_loss_plot_write(const struct lorica_loss_plot *plot, struct lorica_buf *out) {
    struct axis x, y;
    make_axes(plot, &x, &y);
    (void)lorica_buf_printf(out,
                            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
                            "viewBox=\"0 0 %d %d\" role=\"img\" font-family=\"DejaVu Sans, "
                            "Helvetica, Arial, sans-serif\">\n<title>",
                            WIDTH, HEIGHT, WIDTH, HEIGHT);
    put_escaped(out, plot->title);
    (void)lorica_buf_puts(out,
                          "</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n");
    put_heading(out, 32, 19, 0.7, "font-weight=\"bold\" fill=\"#111111\"", plot->title);
    put_heading(out, 55, 13, 0.6, "fill=\"#555555\"", plot->subtitle);
    put_axes(out, &x, &y);
    put_training(out, plot->training, &x, &y);
    if (plot->evaluation->count > 0)
        put_evaluation(out, plot->evaluation, &x, &y);
    put_legend(out, plot);
    (void)lorica_buf_puts(out, "</svg>\n");
    return lorica_buf_status(out);
}
