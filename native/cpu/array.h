// An owned array that reports a lack of memory instead of throwing. Only made when a program is, never in a step.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <type_traits>

namespace thaloom {

template <class T>
class Array {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Array() = default;
  Array(const Array &) = delete;
  Array &operator=(const Array &) = delete;
  ~Array() { std::free(data_); }

  // `count` zeroed items. False if there is no memory for them.
  bool allocate(size_t count) {
    std::free(data_);
    data_ = static_cast<T *>(std::calloc(count ? count : 1, sizeof(T)));
    size_ = data_ == nullptr ? 0 : count;
    return data_ != nullptr;
  }

  size_t size() const { return size_; }
  T &operator[](size_t i) { return data_[i]; }
  const T &operator[](size_t i) const { return data_[i]; }
  T *begin() { return data_; }
  T *end() { return data_ + size_; }
  const T *begin() const { return data_; }
  const T *end() const { return data_ + size_; }

 private:
  T *data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace thaloom
