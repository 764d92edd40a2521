// The key-value store of the ranks of one process: what TCPStore is between processes.
#pragma once

#include <torch/csrc/distributed/c10d/Store.hpp>

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>

#include "distributed/turns.h"

namespace trn::distributed {

class LocalStore final : public c10d::Store {
 public:
  using Bytes = std::vector<std::uint8_t>;
  using Keys = std::vector<std::string>;

  explicit LocalStore(std::shared_ptr<Turns> turns);
  c10::intrusive_ptr<Store> clone() override { return c10::make_intrusive<LocalStore>(*this); }

  using Store::compareSet;
  using Store::set;
  void set(const std::string& key, const Bytes& value) override;
  Bytes compareSet(const std::string& key, const Bytes& expected, const Bytes& desired) override;
  Bytes get(const std::string& key) override;
  std::int64_t add(const std::string& key, std::int64_t value) override;
  bool deleteKey(const std::string& key) override;
  bool check(const Keys& keys) override;
  std::int64_t getNumKeys() override;
  void wait(const Keys& keys) override { wait(keys, timeout_); }
  void wait(const Keys& keys, const std::chrono::milliseconds& timeout) override;
  void append(const std::string& key, const Bytes& value) override;
  std::vector<Bytes> multiGet(const Keys& keys) override;
  void multiSet(const Keys& keys, const std::vector<Bytes>& values) override;
  bool hasExtendedApi() const override { return true; }
  void queuePush(const std::string& key, const Bytes& value) override;
  Bytes queuePop(const std::string& key, bool block) override;
  std::int64_t queueLen(const std::string& key) override;
  Keys listKeys() override;

 private:
  struct Shared {
    std::mutex mutex;
    std::condition_variable changed;
    std::map<std::string, Bytes> values;
    std::map<std::string, std::deque<Bytes>> queues;
  };
  // Waits, under the mutex, until `is_there`; raises when it is not in time or the run has ended.
  template <class Condition>
  void wait_until(std::unique_lock<std::mutex>& lock, const std::string& what, std::chrono::milliseconds timeout,
                  const Condition& is_there);
  template <class Change>
  auto change(const Change& make);

  std::shared_ptr<Turns> turns_;
  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

}  // namespace trn::distributed
