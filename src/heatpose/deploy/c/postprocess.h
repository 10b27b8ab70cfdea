/* Keypoints out of heatmaps, in plain C99 without heap. The same numbers, bit for bit, as `heatpose predict`.
 *
 * Cell (column u, row v) of a map covers a square of the input; its centre is ((u + 0.5) / columns, (v + 0.5) / rows) in fractions of the
 * input's width and height. Multiply x by the camera image's width and y by its height: the whole image was stretched to the input.
 */
#ifndef HEATPOSE_POSTPROCESS_H
#define HEATPOSE_POSTPROCESS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How a keypoint is read off its heatmap. */
typedef enum {
  HEATPOSE_ARGMAX = 0, /* centre of the highest cell, the first one on ties */
  HEATPOSE_REFINED = 1 /* plus the vertex of the parabola through it and its neighbours, at most half a cell away */
} heatpose_decode;

/* How the network's output lies in memory. */
typedef struct {
  int32_t rows;
  int32_t columns;
  int32_t keypoints;
  int32_t channels_last; /* 1: [row][column][keypoint], as in the TFLite; 0: [keypoint][row][column] */
} heatpose_shape;

/* x and y in fractions of the input's width and height, score is the highest cell's value: a probability or, for networks without a sigmoid
 * at their end (HEATPOSE_GIVES_PROBABILITIES 0), a logit for heatpose_probability(). */
typedef struct {
  float x;
  float y;
  float score;
} heatpose_keypoint;

/* Decodes float heatmaps; `poses` takes shape->keypoints entries. Values must not be NaN. */
void heatpose_decode_float(const float *maps, const heatpose_shape *shape, heatpose_decode how, heatpose_keypoint *poses);

/* Decodes int8 heatmaps, real = scale * (stored - zero_point) with scale > 0, without converting them first. */
void heatpose_decode_int8(const int8_t *maps, const heatpose_shape *shape, float scale, int32_t zero_point, heatpose_decode how,
                          heatpose_keypoint *poses);

/* Sigmoid of a logit, without overflow. */
float heatpose_probability(float logit);

#ifdef __cplusplus
}
#endif

#endif
