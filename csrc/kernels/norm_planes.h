// Group and batch normalisation with the planes of channels on partitions: what their two directions share.
//
// A tensor [samples, channels, positions] is cut into lanes of equal length: a part of one channel's positions, a whole
// plane of them, or several channels' planes. Lanes lie on partitions, as many of consecutive ones as fill them. Each
// has its statistics, or sums; a DMA brings those of one group, or of one channel of all samples, onto one partition,
// the owner, and another brings back what is to be done with the lanes' elements. Nothing passes through TensorE, whose
// products would spread a channel's NaN.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kernels/norm_parameters.h"

namespace trn::kernels::planes {

using rows::Index;
using rows::kStatistics;
using rows::kTriple;
using rows::Opcode;
using rows::Tile;
using tiling::Builder;
using tiling::ceil_div;
using tiling::Dim;
using tiling::hbm_tile;
using tiling::on_chip_tile;

// Where the lanes lie.
struct Lanes {
  std::int64_t samples = 1, channels = 1, positions = 1;
  std::int64_t channels_per_lane = 1;
  std::int64_t lanes_per_channel = 1;  // one of these two is 1
  std::int64_t width = 1;              // elements of a lane
  std::int64_t copies = 2;             // of a tile of elements; 1 where two do not fit

  std::int64_t count = 1;             // of a tile: on its partitions
  std::int64_t samples_per_tile = 1;  // 1 where a sample has several tiles
  std::int64_t tiles_per_sample = 1;
  std::int64_t lanes_per_group = 1;  // group norm

  std::int64_t per_sample() const { return count / samples_per_tile; }  // lanes of a tile
  std::int64_t steps() const { return samples / samples_per_tile; }
  std::int64_t owners() const { return per_sample() / lanes_per_channel; }  // of a channel, or of a lane's channels
  std::int64_t groups() const { return count / lanes_per_group; }           // of a tile
};
// The lanes that take least time, of those whose elements fit: `bytes` of each in tiles that may be double buffered,
// and `work_bytes` besides.
std::optional<Lanes> lanes_of(const target::Target& target, const NormShape& shape, std::int64_t bytes,
                              std::int64_t work_bytes);

class Planes {
 public:
  virtual ~Planes() = default;
  virtual program::Program emit() = 0;

 protected:
  Planes(const target::Target& target, const NormShape& shape, const Lanes& lanes, std::string name);

  bool is_group() const { return s_.kind == NormKind::group; }

  // A tile's elements; or those of `steps` of them, side by side, where they stay.
  std::int16_t elements(const std::string& name) { return b_.sbuf(name, dtype_, at_.count, at_.width, at_.copies); }
  std::int16_t kept_elements(const std::string& name, std::int64_t steps) {
    return b_.sbuf(name, dtype_, at_.count, steps * at_.width, 1);
  }
  // `n` scalars for each lane, or owner.
  std::int16_t scalars(const std::string& name, std::int64_t n, std::int64_t copies = 1) {
    return b_.sbuf(name, Dtype::float32, partitions_, n, copies);
  }
  Tile lanes(std::int16_t buffer, std::int64_t n, const Index& first = 0) const {
    return on_chip_tile(buffer, at_.count, n, first);
  }
  Tile owners(std::int16_t buffer, std::int64_t n, const Index& first = 0) const {
    return on_chip_tile(buffer, at_.owners(), n, first);
  }
  Tile group_owners(std::int16_t buffer, std::int64_t n, const Index& first = 0) const {
    return on_chip_tile(buffer, at_.groups(), n, first);
  }
  // One scalar for each channel of a lane, `pitch` apart.
  Tile channels(std::int16_t buffer, const Index& first, std::int64_t pitch = 1) const {
    return on_chip_tile(buffer, at_.count, std::vector<Dim>{{at_.channels_per_lane, pitch}}, first);
  }
  std::int64_t plane() const { return at_.width / at_.channels_per_lane; }  // elements of a lane's channel
  Tile plane_of(std::int16_t buffer, const Index& channel, const Index& base = 0) const {
    return on_chip_tile(buffer, at_.count, plane(), base + channel * plane());
  }

  void move(std::int16_t on_chip, std::int16_t hbm, const Index& tile, bool is_load, const Index& base = 0);
  void load(std::int16_t buffer, std::int16_t hbm, const Index& tile, const Index& base = 0) {
    move(buffer, hbm, tile, true, base);
  }
  void store(std::int16_t hbm, std::int16_t buffer, const Index& tile) { move(buffer, hbm, tile, false); }

  // A value for each channel of tile t's, in HBM and on its owner.
  Tile channels_in_hbm(std::int16_t hbm, const Index& t) const {
    return hbm_tile(hbm, at_.owners(), at_.channels_per_lane, {{at_.channels_per_lane, 1}},
                    t * (at_.owners() * at_.channels_per_lane));
  }
  // `n` scalars of each owner for its lanes of all samples.
  void to_lanes(const Index& into, std::int16_t lane_buffer, std::int16_t owner_buffer, std::int64_t n,
                const Index& from = 0);
  // What the lanes of each owner have: entries() times `n` scalars, those of one lane side by side.
  std::int64_t entries() const { return at_.samples_per_tile * at_.lanes_per_channel; }
  void to_owners(const Index& into, std::int16_t owner_buffer, const Tile& of_lanes);
  // The same of a group's lanes.
  void groups_to_lanes(std::int16_t lane_buffer, std::int16_t owner_buffer, std::int64_t n);
  void lanes_to_groups(std::int16_t owner_buffer, std::int16_t lane_buffer, std::int64_t n);

  bool fits(std::int64_t bytes_per_element) const {
    return at_.width * bytes_per_element <= target_.core.sbuf_bytes_per_partition * 9 / 10;
  }
  // body(t) for each of a sample's tiles, whose phases are nests where there is one.
  template <class Body>
  void looped_tiles(Body body) {
    is_looped_ = at_.tiles_per_sample > 1;
    if (!is_looped_) {
      body(Index(0));
      return;
    }
    b_.nest("body");
    b_.loop(at_.tiles_per_sample, body, num_shares_ == 1);
  }
  void phase(const std::string& name) {
    if (!is_looped_) {
      b_.nest(name);
    }
  }
  // body(step, share) for all tiles of a sample's t-th kind: sums, where each physical core has a share of its own.
  template <class Body>
  void shared_steps(Body body) {
    const std::int64_t each = at_.steps() / num_shares_;
    if (each > 0) {
      b_.parallel_loop(num_shares_, [&](const Index& share) {
        b_.loop(each, [&](const Index& i) { body(share * each + i, share); });
      });
    }
    b_.loop(at_.steps() - each * num_shares_, [&](const Index& i) { body(i + each * num_shares_, Index(0)); });
  }
  template <class Body>
  void each_channel(Body body) {
    b_.each(at_.channels_per_lane, body);
  }
  // body(part) for pieces of a plane, where part(buffer, base) has a piece's elements.
  template <class Body>
  void pieces(const Index& channel, Body body) {
    b_.tiles(plane(), piece_, [&](const Index& first, std::int64_t n) {
      body([&](std::int16_t buffer,
               const Index& base = 0) { return on_chip_tile(buffer, at_.count, n, base + channel * plane() + first); },
           n);
    });
  }

  const NormShape& s_;
  const target::Target& target_;
  const Lanes at_;
  const std::int64_t partitions_, piece_;
  const Dtype dtype_;  // of elements in SBUF
  // Batch norm, and sums over samples. 1: cores take different channels.
  std::int64_t num_shares_ = 1;
  bool is_looped_ = false;
  Builder b_;
};

std::optional<program::Program> forward(const target::Target& target, const NormShape& shape);
std::optional<program::Program> backward(const target::Target& target, const NormShape& shape);

}  // namespace trn::kernels::planes
