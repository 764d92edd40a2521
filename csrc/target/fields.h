// The one list of each record's fields, by name: readers and writers of targets iterate over it.
#pragma once

#include <cstddef>
#include <tuple>
#include <type_traits>
#include <utility>

#include "target/target.h"

namespace trn::target {

template <class Record, class Value>
struct Field {
  const char* name;
  Value Record::* member;
};

// Fields<Record>::all is a tuple of Field, in the order of declaration; kPath is the table's name in a target file.
template <class Record>
struct Fields;

#define TRN_FIELD(record, field)           \
  Field<record, decltype(record::field)> { \
    #field, &record::field                 \
  }

template <>
struct Fields<Core> {
  static constexpr const char* kPath = "core";
  static constexpr auto all = std::tuple{
      TRN_FIELD(Core, generation),
      TRN_FIELD(Core, tensor_clock_hz),
      TRN_FIELD(Core, vector_clock_hz),
      TRN_FIELD(Core, scalar_clock_hz),
      TRN_FIELD(Core, gpsimd_clock_hz),
      TRN_FIELD(Core, num_partitions),
      TRN_FIELD(Core, sbuf_bytes_per_partition),
      TRN_FIELD(Core, psum_bytes_per_partition),
      TRN_FIELD(Core, psum_num_banks),
      TRN_FIELD(Core, stationary_free_max_elements),
      TRN_FIELD(Core, moving_free_max_elements),
      TRN_FIELD(Core, fp32_passes),
      TRN_FIELD(Core, bf16_passes),
      TRN_FIELD(Core, fp8_passes),
      TRN_FIELD(Core, mx_passes),
      TRN_FIELD(Core, min_instruction_cycles),
      TRN_FIELD(Core, gpsimd_fixed_cycles),
      TRN_FIELD(Core, access_overhead_cycles),
      TRN_FIELD(Core, vector_result_cycles),
      TRN_FIELD(Core, scalar_result_cycles),
      TRN_FIELD(Core, vector_copy_bf16_speedup),
      TRN_FIELD(Core, vector_tensor_tensor_bf16_speedup),
      TRN_FIELD(Core, scalar_bf16_speedup),
      TRN_FIELD(Core, dma_num_engines),
      TRN_FIELD(Core, dma_bytes_per_second),
      TRN_FIELD(Core, dma_fixed_seconds),
      TRN_FIELD(Core, dma_saturating_bytes),
      TRN_FIELD(Core, dma_transpose_efficiency),
      TRN_FIELD(Core, dma_transpose_on_chip_efficiency),
      TRN_FIELD(Core, gpsimd_dma_bytes_per_second),
  };
};

template <>
struct Fields<Device> {
  static constexpr const char* kPath = "device";
  static constexpr auto all = std::tuple{
      TRN_FIELD(Device, num_cores),
      TRN_FIELD(Device, hbm_bytes),
      TRN_FIELD(Device, hbm_bytes_per_second),
      TRN_FIELD(Device, peak_bf16_flops_per_second),
      TRN_FIELD(Device, peak_fp32_flops_per_second),
      TRN_FIELD(Device, peak_fp8_flops_per_second),
      TRN_FIELD(Device, host_bytes_per_second),
      TRN_FIELD(Device, tensor_efficiency),
      TRN_FIELD(Device, hbm_efficiency),
      TRN_FIELD(Device, eager_dispatch_seconds),
      TRN_FIELD(Device, graph_launch_seconds),
      TRN_FIELD(Device, host_sync_seconds),
      TRN_FIELD(Device, gather_int64_seconds_per_index),
  };
};

template <>
struct Fields<Link> {
  static constexpr const char* kPath = "link";
  static constexpr auto all = std::tuple{
      TRN_FIELD(Link, name),
      TRN_FIELD(Link, topology),
      TRN_FIELD(Link, num_chips),
      TRN_FIELD(Link, bytes_per_second),
      TRN_FIELD(Link, latency_seconds),
  };
};

template <>
struct Fields<Collectives> {
  static constexpr const char* kPath = "collectives";
  static constexpr auto all = std::tuple{
      TRN_FIELD(Collectives, start_seconds),
      TRN_FIELD(Collectives, all_reduce_bytes_per_second),
      TRN_FIELD(Collectives, reduce_scatter_bytes_per_second),
      TRN_FIELD(Collectives, mesh_max_bytes),
      TRN_FIELD(Collectives, rdh_max_bytes),
  };
};

template <>
struct Fields<Chip> {
  static constexpr const char* kPath = "chip";
  static constexpr auto all = std::tuple{
      TRN_FIELD(Chip, name),        TRN_FIELD(Chip, num_devices), TRN_FIELD(Chip, hbm_bytes),
      TRN_FIELD(Chip, power_watts), TRN_FIELD(Chip, links),
  };
};

template <>
struct Fields<Instance> {
  static constexpr const char* kPath = "instance";
  static constexpr auto all = std::tuple{
      TRN_FIELD(Instance, name),         TRN_FIELD(Instance, num_chips), TRN_FIELD(Instance, hbm_bytes),
      TRN_FIELD(Instance, usd_per_hour), TRN_FIELD(Instance, links),
  };
};

template <>
struct Fields<Target> {
  static constexpr const char* kPath = "";
  static constexpr auto all = std::tuple{
      TRN_FIELD(Target, name), TRN_FIELD(Target, core),        TRN_FIELD(Target, device),
      TRN_FIELD(Target, chip), TRN_FIELD(Target, collectives), TRN_FIELD(Target, instances),
  };
};

#undef TRN_FIELD

template <class Record>
concept HasFields = requires { Fields<Record>::all; };

// visit(name, value) for each field of a record, in the order of declaration.
template <class Record, class Visit>
void for_each_field(Record& record, Visit&& visit) {
  std::apply([&](const auto&... field) { (visit(field.name, record.*field.member), ...); },
             Fields<std::remove_const_t<Record>>::all);
}

namespace detail {

struct AnyValue {
  template <class T>
  operator T() const;  // declared only: it stands for a value where the compiler counts initialisers
};

template <class Record, std::size_t... I>
constexpr bool takes(std::index_sequence<I...>) {
  return requires { Record{(static_cast<void>(I), AnyValue{})...}; };
}

// An aggregate takes as many initialisers as it has members and no more.
template <class Record>
constexpr bool is_complete() {
  constexpr auto listed = std::tuple_size_v<decltype(Fields<Record>::all)>;
  return takes<Record>(std::make_index_sequence<listed>{}) && !takes<Record>(std::make_index_sequence<listed + 1>{});
}

}  // namespace detail

static_assert(detail::is_complete<Core>() && detail::is_complete<Device>() && detail::is_complete<Link>() &&
                  detail::is_complete<Collectives>() && detail::is_complete<Chip>() &&
                  detail::is_complete<Instance>() && detail::is_complete<Target>(),
              "a record has a field that its list lacks");

}  // namespace trn::target
