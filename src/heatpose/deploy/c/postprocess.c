/* See postprocess.h. Intermediate types follow the reference: cell centres in double, the parabola in float. */
#include "postprocess.h"

#include <math.h>

/* A heatmap of one keypoint: where its cells lie, and what a stored value means. */
typedef struct {
  const float *floats; /* one of the two is set */
  const int8_t *bytes;
  int32_t rows, columns;
  int32_t step, row_step; /* elements between columns and between rows */
  double scale;
  int32_t zero_point;
} map_view;

static float value_at(const map_view *map, int32_t row, int32_t column) {
  const int32_t place = row * map->row_step + column * map->step;
  if (map->floats) {
    return map->floats[place];
  }
  return (float)((double)((int32_t)map->bytes[place] - map->zero_point) * map->scale);
}

/* Vertex of the parabola through (-1, before), (0, at), (1, after), in [-0.5, 0.5]; 0 on plateaus. */
static float vertex(float before, float at, float after) {
  const float curvature = 2.0f * at - before - after;
  float shift;
  if (!(curvature > 0.0f)) {
    return 0.0f;
  }
  shift = (after - before) / (2.0f * curvature);
  if (shift < -0.5f) {
    return -0.5f;
  }
  return shift > 0.5f ? 0.5f : shift;
}

/* The same between neighbours along one axis; at the map's border there is nothing to refine. */
static float refine(const map_view *map, int32_t row, int32_t column, int32_t down, int32_t right) {
  const int32_t place = down ? row : column, last = (down ? map->rows : map->columns) - 1;
  float before, after;
  if (place == 0 || place == last) {
    return 0.0f;
  }
  before = value_at(map, row - down, column - right);
  after = value_at(map, row + down, column + right);
  if (!isfinite(before) || !isfinite(after)) {
    return 0.0f;
  }
  return vertex(before, value_at(map, row, column), after);
}

static int32_t highest(const map_view *map) {
  int32_t row, column, best = 0;
  if (map->floats) {
    float top = map->floats[0];
    for (row = 0; row < map->rows; row++) {
      for (column = 0; column < map->columns; column++) {
        const float value = map->floats[row * map->row_step + column * map->step];
        if (value > top) {
          top = value;
          best = row * map->columns + column;
        }
      }
    }
  } else {
    int8_t top = map->bytes[0];
    for (row = 0; row < map->rows; row++) {
      for (column = 0; column < map->columns; column++) {
        const int8_t value = map->bytes[row * map->row_step + column * map->step];
        if (value > top) {
          top = value;
          best = row * map->columns + column;
        }
      }
    }
  }
  return best;
}

static heatpose_keypoint decode_map(const map_view *map, heatpose_decode how) {
  const int32_t best = highest(map), row = best / map->columns, column = best % map->columns;
  float dx = 0.0f, dy = 0.0f;
  heatpose_keypoint found;
  if (how == HEATPOSE_REFINED) {
    dx = refine(map, row, column, 0, 1);
    dy = refine(map, row, column, 1, 0);
  }
  found.x = (float)(((double)column + 0.5 + (double)dx) / (double)map->columns);
  found.y = (float)(((double)row + 0.5 + (double)dy) / (double)map->rows);
  found.score = value_at(map, row, column);
  return found;
}

/* Decodes every keypoint's map in turn. */
static void decode_all(map_view map, const heatpose_shape *shape, heatpose_decode how, heatpose_keypoint *poses) {
  const float *floats = map.floats;
  const int8_t *bytes = map.bytes;
  const int32_t apart = shape->channels_last ? 1 : shape->rows * shape->columns;
  int32_t k;
  map.rows = shape->rows;
  map.columns = shape->columns;
  map.step = shape->channels_last ? shape->keypoints : 1;
  map.row_step = map.step * shape->columns;
  for (k = 0; k < shape->keypoints; k++) {
    map.floats = floats ? floats + k * apart : floats;
    map.bytes = bytes ? bytes + k * apart : bytes;
    poses[k] = decode_map(&map, how);
  }
}

void heatpose_decode_float(const float *maps, const heatpose_shape *shape, heatpose_decode how, heatpose_keypoint *poses) {
  const map_view map = {maps, 0, 0, 0, 0, 0, 1.0, 0};
  decode_all(map, shape, how, poses);
}

void heatpose_decode_int8(const int8_t *maps, const heatpose_shape *shape, float scale, int32_t zero_point, heatpose_decode how,
                          heatpose_keypoint *poses) {
  const map_view map = {0, maps, 0, 0, 0, 0, (double)scale, zero_point};
  decode_all(map, shape, how, poses);
}

float heatpose_probability(float logit) { return 0.5f + 0.5f * tanhf(0.5f * logit); }
