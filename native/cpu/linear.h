// Rows times a matrix in panels: which tiles, in which order, and what is done to their sums.
//
// A strip of panels stays in the second cache while all rows of the step go by, so memory is read once per step. Rows
// are cut evenly: sixteen make two tiles of eight, not one of twelve and one of four. Results depend on none of it.
#pragma once

#include <algorithm>

#include "bounds.h"
#include "functions.h"
#include "highest.h"
#include "linear_whole.h"
#include "program.h"
#include "threads.h"
#include "tiles.h"

namespace thaloom {

// A matrix of a stack, and what is added to its results.
struct Factor {
  Matrices w;
  size_t matrix = 0;
  const float *bias = nullptr;  // padded to whole panels
};

// Rows times a matrix, and what becomes of the sums, in this order: plus the bias; times the activation of what `gate`
// gives for the same rows; plus `added`; into `out`, whose rows have room for whole panels, or else to `target`, `unit`
// panels at a time, in the forms that it is read in, or to `highest`, or to `open`. The same for every format.
struct Product {
  Factor up;
  Rows out = {};
  const Target *target = nullptr;
  size_t unit = 1;
  Highest *highest = nullptr;
  OpenPanels *open = nullptr;
  bool goes_on = true;  // false: the panels that follow are not asked for
  const Factor *gate = nullptr;  // of the same shape and dtype
  uint32_t activation = 0;
  Rows added = {};  // none without a base

  // `sums`, and `gates` if there is a gate: of `num_rows` rows from `row` on, `num_panels` panels from `panel` on. Row r of
  // these goes to `to(r)`.
  template <class To>
  void finish(float *sums, float *gates, size_t row, size_t num_rows, size_t panel, size_t num_panels, const To &to) const {
    const size_t first = panel * kGroup, width = num_panels * kGroup;
    add_bias(up, sums, num_rows, first, width);
    if (gate != nullptr) {
      add_bias(*gate, gates, num_rows, first, width);
      gate_row(activation, gates, sums, sums, num_rows * width);  // of all rows at once: they stand side by side
    }
    for (size_t r = 0; r < num_rows; ++r, sums += width) {
      float *y = to(r);
      if (added.base == nullptr) {
        for (size_t k = 0; k < width; k += kLanes) store(y + k, load(sums + k));
      } else {
        const float *x = added.at(row + r) + first;
        for (size_t k = 0; k < width; k += kLanes) store(y + k, load(x + k) + load(sums + k));
      }
    }
  }

 private:
  static void add_bias(const Factor &factor, float *sums, size_t num_rows, size_t first, size_t width) {
    if (factor.bias == nullptr) return;
    for (size_t r = 0; r < num_rows; ++r, sums += width)
      for (size_t k = 0; k < width; k += kLanes) store(sums + k, load(sums + k) + load(factor.bias + first + k));
  }
};

inline const Tiles &tiles_of(uint32_t dtype) {
  switch (dtype) {
    case THALOOM_F32: return TilesOf<F32Tile>::tiles;
    case THALOOM_BF16: return TilesOf<BF16Tile>::tiles;
    case THALOOM_BF16_WIDE: return TilesOf<WidenedTile>::tiles;
    case THALOOM_INT8: return TilesOf<WholeTile<THALOOM_INT8>>::tiles;
    case THALOOM_INT8_GROUPS: return TilesOf<WholeTile<THALOOM_INT8_GROUPS>>::tiles;
    case THALOOM_INT8_SPLIT: return TilesOf<WholeTile<THALOOM_INT8_SPLIT>>::tiles;
    case kInt8Upper: return TilesOf<WholeTile<kInt8Upper>>::tiles;
    default: return TilesOf<WholeTile<THALOOM_INT4>>::tiles;
  }
}

// Tiles that so many rows are cut into, evenly.
inline size_t tiles_for(const Tiles &tiles, size_t num_rows) {
  const auto largest = static_cast<size_t>(tiles.rows), many = static_cast<size_t>(tiles.many);
  const size_t most = num_rows > many ? std::min<size_t>(largest, 8) : largest;
  return (num_rows + most - 1) / most;
}

// Panels of a matrix of `dtype` handled together for so many rows, so that `num_panels` make `num_parts` to share out.
inline size_t strip_panels(uint32_t dtype, size_t num_rows, size_t num_panels, size_t num_parts) {
  if (num_rows == 0) return 1;
  const Tiles &tiles = tiles_of(dtype);
  const size_t num_tiles = tiles_for(tiles, num_rows);
  auto strip = static_cast<size_t>(tile_panels(static_cast<int>((num_rows + num_tiles - 1) / num_tiles), tiles.sums));
  while (strip > 1 && num_panels < num_parts * strip) strip /= 2;
  return strip;
}

inline constexpr size_t kMostUnit = form_reach(Form::kWholeFor4) / kGroup;  // panels that are made ready together

inline constexpr size_t kTilesTogether = 4;  // that a panel goes by before the next one of its unit does

// Bytes that tiles fetch ahead of themselves in a strip that is in the second cache already: 3 to 7 % at 32 and 48 rows.
inline constexpr size_t kNear = 1024;

// A panel of int8_split is joined before so many tiles or more go over it, once for kTilesTogether of them, if it has so
// many columns at most: there is room on the stack.
inline constexpr size_t kWorthJoining = 3, kMostJoined = 2048;

// Whether each tile of a strip asks for its part of the next one, or the first for all of it. Where memory gives a core
// less than a tile takes, the first would wait for it and the others ask for nothing: on an Emerald Rapids (15 GB/s a core)
// a product of 24 and 32 rows is 25 to 30 % quicker if all ask. On a Zen 4 (twice that) it is 2 % quicker if the first does.
#if defined(__x86_64__)
inline const bool kAsksEvenly = (__builtin_cpu_init(), __builtin_cpu_is("intel"));
#else
inline constexpr bool kAsksEvenly = false;
#endif

// Of eight lines of the next strip, those that a tile asks for; and where tile `i` of those over a panel at `at` begins to
// ask, `ahead` panels on.
inline size_t asked_by(size_t num_tiles) { return kAsksEvenly ? (8 + num_tiles - 1) / num_tiles : 8; }
inline const std::byte *asked_from(const std::byte *at, size_t ahead, size_t panel_bytes, size_t i, size_t num_tiles) {
  if (!kAsksEvenly && i != 0) return at + kNear;
  return at + ahead * panel_bytes + (kAsksEvenly ? panel_bytes * i / num_tiles / 64 * 64 : 0);
}

// All rows over the panels [begin, end), in tiles of `most` panels, as strip_panels says.
inline void multiply(const Product &product, size_t begin, size_t end, size_t most, const Inputs &in, size_t num_rows) {
  if (num_rows == 0) return;
  const Matrices &w = product.up.w;
  const size_t num_tiles = tiles_for(tiles_of(w.dtype), num_rows);
  const bool is_joined = w.dtype == THALOOM_INT8_SPLIT && w.columns <= kMostJoined && num_tiles >= kWorthJoining &&
                         most == 1 && product.gate == nullptr;
  const Tiles &tiles = tiles_of(is_joined ? uint32_t{THALOOM_INT8_GROUPS} : w.dtype);
  const size_t longest = std::max(most, product.unit);
  // As it comes out of a tile.
  const bool is_stored = product.target == nullptr && product.highest == nullptr && product.open == nullptr;
  alignas(64) float sums[kAccumulators * kLanes], gates[kAccumulators * kLanes];
  alignas(64) float unit[kTilesTogether * kTileRows * kMostUnit * kGroup];  // what is not stored as it is, row after row
  alignas(64) std::byte joined[kMostJoined / kWholeGroup * (512 + 32)];  // touched only where there is something to join
  for (size_t length; begin < end; begin += length) {
    length = end - begin >= longest ? longest : is_stored ? 1 : end - begin;
    const size_t next = product.goes_on ? length : 0;
    Strip strip = {.panels = nullptr, .panel_bytes = w.panel_bytes, .x = nullptr, .x_stride = in.stride,
                   .columns = w.columns, .next = nullptr, .asked = asked_by(num_tiles), .lower_bytes = w.lower_bytes};
    const auto aim = [&](const Factor &factor, size_t panel, size_t i) {
      const std::byte *const at = factor.w.panel(factor.matrix, panel);
      strip.panels = is_joined ? joined : at;
      strip.lower = factor.w.lower(panel);
      strip.next = asked_from(at, next, w.panel_bytes, i, num_tiles);
      strip.next_lower = asked_from(strip.lower, next, w.lower_bytes, i, num_tiles);
    };
    for (size_t block = 0; block < num_tiles; block += kTilesTogether) {
      const size_t last = std::min(block + kTilesTogether, num_tiles), top = share(num_rows, block, num_tiles).begin;
      for (size_t panel = begin, width; panel < begin + length; panel += width) {
        width = begin + length - panel >= most ? most : 1;
        if (is_joined) w.join(panel, panel + next, joined);
        for (size_t i = block; i < last; ++i) {
          const auto [row, after] = share(num_rows, i, num_tiles);
          const Tile tile = tiles.of[after - row - 1][width / 2];  // 1, 2, 4 panels: 0, 1, 2
          strip.x = in.at(row);
          if (product.gate != nullptr) {
            aim(*product.gate, panel, i);
            tile(strip, gates);
          }
          aim(product.up, panel, i);
          tile(strip, sums);
          product.finish(sums, gates, row, after - row, panel, width, [&](size_t r) {
            if (is_stored) return product.out.at(row + r) + panel * kGroup;
            return unit + ((row - top + r) * length + panel - begin) * kGroup;
          });
        }
      }
      if (is_stored) continue;
      const size_t first = begin * kGroup, columns = std::min<size_t>(length * kGroup, w.rows - first);
      for (size_t r = top, at = 0; r < share(num_rows, last - 1, num_tiles).end; ++r, at += length * kGroup) {
        if (product.target != nullptr) product.target->write(r, first, unit + at, columns);
        else if (product.highest != nullptr) product.highest->look(r, first, unit + at, columns);
        else product.open->look(r, first, unit + at, columns);
      }
    }
  }
}

}  // namespace thaloom
