// Extremes with their places: what equals a row's extreme is marked, and the mark that lies foremost is the largest of
// marks times the distance to the row's end.
#include <limits>
#include <string>

#include "kernels/reduction.h"
#include "kernels/rows.h"

namespace trn::kernels {

using rows::Index;
using rows::Opcode;
using rows::RowKernel;
using rows::Tile;
using tiling::Builder;
using tiling::hbm_tile;
using tiling::on_chip_tile;

namespace {

class ExtremePlaces {
 public:
  ExtremePlaces(const target::Target& target, const ReductionShape& shape)
      : target_(target),
        s_(shape),
        is_float_(is_real_float(shape.inputs.front().dtype)),
        k_(target, "reduction", shape.rows, shape.cols, shape.across_partitions),
        b_(k_.builder),
        in_dtype_(tiling::sbuf_dtype(shape.inputs.front().dtype)) {
    in_.hbm = b_.hbm("in0", s_.inputs.front());
    for (std::size_t i = 0; i < s_.outputs.size(); ++i) {
      outputs_.push_back(b_.hbm("out" + std::to_string(i), s_.outputs[i], true));
    }
  }

  program::Program emit(rows::Layout layout) {
    if (layout == rows::Layout::spread) {
      spread();
    } else {
      along_rows();
    }
    return b_.take();
  }

 private:
  // Of rows: the extreme, and the distance from its first place to the end.
  struct Found {
    Tile best, distance;
  };

  void give_columns(std::int64_t partitions, std::int64_t elements, std::int64_t copies) {
    int number = 0;
    for (auto* column : {&best_, &part_, &nearest_, &found_, &flags_, &others_}) {
      *column = b_.sbuf("column" + std::to_string(number++), Dtype::float32, partitions, elements, copies);
    }
  }

  // Rows on partitions.
  void along_rows() {
    const std::int64_t size = target::itemsize(in_dtype_);
    k_.plan(2 * size + 2 * target::itemsize(Dtype::float32), size);
    k_.give_tile(in_);
    marks_ = k_.work("marks", Dtype::float32, 1);
    distances_ = b_.sbuf("distances", Dtype::float32, k_.partitions(), k_.chunk(), k_.resident() ? 1 : 2);
    give_columns(k_.partitions(), k_.group(), 2);
    if (k_.resident()) {
      b_.nest("distances");
      measure(on_chip_tile(distances_, k_.partitions(), s_.cols), 0, Index(s_.cols));
    }
    k_.row_groups([&](const Index& row, std::int64_t p, std::int64_t g) {
      auto column = [&](std::int16_t buffer) { return on_chip_tile(buffer, p, g); };
      const Found found{column(best_), column(nearest_)};
      if (!k_.resident()) {
        const bool is_maximum = s_.alu == Alu::maximum;
        b_.memset(found.best, (is_maximum ? -1.0F : 1.0F) * std::numeric_limits<float>::infinity());
        b_.memset(found.distance, static_cast<float>(s_.cols));
      }
      k_.chunks([&](const Index& col, std::int64_t width) {
        if (!k_.resident()) {
          measure(on_chip_tile(distances_, k_.partitions(), width), 0, col * -1 + s_.cols);
        }
        k_.load(in_, row, p, g, col, width);
        auto all = [&](std::int16_t buffer) { return on_chip_tile(buffer, p, {{g, k_.chunk()}, {width, 1}}); };
        const Found here = k_.resident() ? found : Found{column(part_), column(found_)};
        find(here, all(in_.tile), all(marks_), on_chip_tile(distances_, p, {{g, 0}, {width, 1}}), column(flags_), [&] {
          k_.members(g, [&](const Index& j) {
            mark(k_.row(marks_, p, j, width), k_.row(in_.tile, p, j, width), k_.scalar(here.best.buffer, p, j));
          });
        });
        if (!k_.resident()) {
          keep_better(found, here, column(flags_), column(others_));
        }
      });
      become_place(found.distance);
      for (std::size_t i = 0; i < outputs_.size(); ++i) {
        k_.store_column(outputs_[i], is_place(i) ? nearest_ : best_, row, p, g);
      }
    });
  }

  // Few long rows: each lies over all partitions, whose extremes then pass to one. A single one has a share on each
  // core, and so have rows that are stored as columns, which pass together.
  void spread() {
    const std::int64_t partitions = k_.partitions(), size = target::itemsize(in_dtype_);
    together_ = s_.across_partitions ? s_.rows : 1;
    const std::int64_t groups = s_.rows / together_, elements = s_.cols * together_;
    const std::int64_t bytes = 2 * size + 3 * target::itemsize(Dtype::float32);
    free_ = std::max<std::int64_t>(tiling::stream_free_elements(target_, elements, size, bytes) / together_, 1);
    const std::int64_t tile = partitions * free_;
    const std::int64_t shares = groups == 1 && s_.cols >= k_.num_shares() * tile ? k_.num_shares() : 1;
    in_.tile = b_.sbuf("tile", in_dtype_, partitions, free_ * together_);
    marks_ = b_.sbuf("marks", Dtype::float32, partitions, free_ * together_, 1);
    distances_ = b_.sbuf("distances", Dtype::float32, partitions, free_, 1);
    rest_distances_ = b_.sbuf("rest_distances", Dtype::float32, partitions, free_, 1);
    lines_ = b_.sbuf("lines", Dtype::float32, 1, 3 * partitions * shares * together_, 1);
    give_columns(partitions, shares * together_, 1);
    b_.nest("distances");
    measure(on_chip_tile(distances_, partitions, free_), free_, Index(tile));
    const std::int64_t each = s_.cols / tile / shares, shared = each * shares * tile;
    if (shares > 1) {
      b_.nest("body");
      b_.parallel_loop(shares,
                       [&](const Index& share) { search(Index(0), share * (each * tile), each * tile, share); });
      b_.nest("rest");
      search_rest(Index(0), shared, false);
      join(Index(0), shares);
      return;
    }
    b_.nest("body");
    b_.parallel_loop(groups, [&](const Index& group) {
      search(group * elements, Index(0), shared, Index(0));
      search_rest(group * elements, shared, each == 0);
      join(group * together_, 1);
    });
  }

  // Whole tiles of rows that begin at `start`, `count` columns from `col` on, into a share's columns.
  void search(const Index& start, const Index& col, std::int64_t count, const Index& share) {
    const std::int64_t partitions = k_.partitions(), tile = partitions * free_;
    const Tile distances = on_chip_tile(distances_, partitions, free_);
    if (count > 0) {
      search_tile(start, col, distances, share, true);
      b_.loop(count / tile - 1,
              [&](const Index& i) { search_tile(start, col + i * tile + tile, distances, share, false); });
    }
  }

  // The columns from `col` on, into the first share's.
  void search_rest(const Index& start, std::int64_t col, bool is_first) {
    const std::int64_t partitions = k_.partitions(), tile = partitions * free_, whole = (s_.cols - col) / tile;
    b_.loop(whole, [&](const Index& i) {
      search_tile(start, i * tile + col, on_chip_tile(distances_, partitions, free_), Index(0), false);
    });
    col += whole * tile;
    for (const std::int64_t p : {partitions, std::int64_t{1}}) {
      const std::int64_t width = (s_.cols - col) / p;
      if (width > 0) {
        const Tile distances = on_chip_tile(rest_distances_, p, width);
        measure(distances, width, Index(p * width));
        search_tile(start, Index(col), distances, Index(0), is_first && p > 1);
        col += p * width;
      }
    }
  }

  // A tile of consecutive elements, of `together_` rows side by side; `distances`, of a row's, are those to its end.
  void search_tile(const Index& start, const Index& col, const Tile& distances, const Index& share, bool is_first) {
    const std::int64_t p = distances.partitions, width = distances.free_elements(), count = width * together_;
    auto column = [&](std::int16_t buffer) { return on_chip_tile(buffer, p, together_, share * together_); };
    b_.dma(on_chip_tile(in_.tile, p, count), hbm_tile(in_.hbm, p, count, {{count, 1}}, start + col * together_));
    const Found found{column(best_), column(nearest_)}, here = is_first ? found : Found{column(part_), column(found_)};
    const Tile x = on_chip_tile(in_.tile, p, side_by_side(width)), marks = on_chip_tile(marks_, p, side_by_side(width));
    find_in_rows(here, x, marks, on_chip_tile(distances.buffer, p, {{together_, 0}, {width, 1}}), column(flags_),
                 here.best);
    const Tile behind = column(others_);
    b_.emit({.opcode = Opcode::iota,
             .dst = behind,
             .src = {hbm_tile(-1, p, 0, {{together_, 0}}, col * -1 + (s_.cols - p * width))}});
    b_.tensor_tensor(here.distance, here.distance, behind, Alu::add);
    if (!is_first) {
      keep_better(found, here, column(flags_), column(others_));
    }
  }

  // Of all partitions and shares. DMA moves their columns, as a transpose of NeuronCore-v2 would spread a NaN.
  void join(const Index& row, std::int64_t shares) {
    const std::int64_t partitions = k_.partitions(), lanes = partitions * shares, count = lanes * together_;
    auto moved = [&](std::int64_t number, std::int16_t columns) {
      b_.dma(on_chip_tile(lines_, 1, count, Index(number * count)),
             on_chip_tile(columns, partitions, shares * together_));
    };
    moved(0, best_);
    moved(1, nearest_);
    auto line = [&](std::int64_t number) {
      return on_chip_tile(lines_, 1, side_by_side(lanes), Index(number * count));
    };
    auto column = [&](std::int16_t buffer) { return on_chip_tile(buffer, 1, together_); };
    const Found found{column(part_), column(found_)};
    find_in_rows(found, line(0), line(2), line(1), column(flags_), found.best);
    become_place(found.distance);
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      b_.dma(hbm_tile(outputs_[i], 1, 0, {{together_, 1}}, row), is_place(i) ? found.distance : found.best);
    }
  }

  // Each of `together_` rows, an element beside the other's.
  std::vector<tiling::Dim> side_by_side(std::int64_t width) const { return {{together_, 1}, {width, together_}}; }
  void find_in_rows(const Found& found, const Tile& x, const Tile& marks, const Tile& distances, const Tile& has_nan,
                    const Tile& best) {
    find(found, x, marks, distances, has_nan, [&] {
      b_.loop(together_, [&](const Index& r) {
        const auto of_row = [&](const Tile& tile, std::int64_t width) {
          const Index first{tile.offset, tile.loop_strides};
          return on_chip_tile(tile.buffer, tile.partitions, {{width, together_}}, first + r);
        };
        const std::int64_t width = x.free.back().size;
        mark(of_row(marks, width), of_row(x, width), of_row(best, 1));
      });
    });
  }

  bool is_place(std::size_t output) const { return output + 1 == outputs_.size(); }

  // first - lane * width - place in the lane
  void measure(const Tile& distances, std::int64_t width, const Index& first) {
    const Tile pattern = hbm_tile(-1, distances.partitions, -width, {{distances.free_elements(), -1}}, first);
    b_.emit({.opcode = Opcode::iota, .dst = distances, .src = {pattern}});
  }

  // mark_equal() leaves in `marks`, where NaN are marked if there may be any, what equals found.best too.
  template <class MarkEqual>
  void find(const Found& found, const Tile& x, const Tile& marks, const Tile& distances, const Tile& has_nan,
            MarkEqual mark_equal) {
    b_.tensor_reduce(found.best, x, s_.alu);
    if (is_float_) {  // a NaN is the extreme of its row
      b_.tensor_tensor(marks, x, x, Alu::not_equal);
      b_.tensor_reduce(has_nan, marks, Alu::maximum);
      b_.emit({.opcode = Opcode::tensor_copy_predicated,
               .dst = found.best,
               .src = {found.best, has_nan},
               .scalar0 = std::numeric_limits<float>::quiet_NaN()});
    }
    mark_equal();
    b_.tensor_tensor(marks, marks, distances, Alu::multiply);
    b_.tensor_reduce(found.distance, marks, Alu::maximum);
  }

  void mark(const Tile& marks, const Tile& x, const Tile& extreme) {
    if (is_float_) {
      b_.emit({.opcode = Opcode::scalar_tensor_tensor,
               .dst = marks,
               .src = {x, marks, extreme},
               .alu0 = Alu::equal,
               .alu1 = Alu::maximum});
    } else {
      b_.emit({.opcode = Opcode::tensor_scalar, .dst = marks, .src = {x, extreme}, .alu0 = Alu::equal});
    }
  }

  // What was found before stays, unless this is better, or the first NaN.
  void keep_better(const Found& found, const Found& here, const Tile& better, const Tile& other) {
    b_.tensor_tensor(better, here.best, found.best, s_.alu == Alu::maximum ? Alu::greater : Alu::less);
    if (is_float_) {
      b_.tensor_tensor(other, here.best, here.best, Alu::not_equal);
      b_.tensor_tensor(better, better, other, Alu::maximum);
      b_.tensor_tensor(other, found.best, found.best, Alu::equal);
      b_.tensor_tensor(better, better, other, Alu::multiply);
    }
    b_.emit({.opcode = Opcode::select, .dst = found.best, .src = {better, here.best, found.best}});
    b_.emit({.opcode = Opcode::select, .dst = found.distance, .src = {better, here.distance, found.distance}});
  }

  void become_place(const Tile& distance) {
    b_.tensor_scalar(distance, distance, Alu::multiply, -1, Alu::add, static_cast<float>(s_.cols));
  }

  const target::Target& target_;
  const ReductionShape& s_;
  const bool is_float_;
  RowKernel k_;
  Builder& b_;
  const Dtype in_dtype_;
  rows::RowTensor in_;
  std::vector<std::int16_t> outputs_;
  std::int16_t marks_ = -1, distances_ = -1;
  std::int16_t best_ = -1, part_ = -1, nearest_ = -1, found_ = -1, flags_ = -1, others_ = -1;
  std::int64_t together_ = 1, free_ = 0;  // rows that are spread, and elements of each that a tile's partition has
  std::int16_t rest_distances_ = -1, lines_ = -1;
};

}  // namespace

program::Program extreme_places(const target::Target& target, const ReductionShape& shape, rows::Layout layout) {
  return ExtremePlaces(target, shape).emit(layout);
}

}  // namespace trn::kernels
