// From a value known at run time to a template argument; knows no operator.
#pragma once

#include <type_traits>
#include <utility>

namespace whylight {

// Calls f with std::integral_constant<E, value> for the one of `Values` that equals `value`; false if none does. A
// function rather than a macro: its body may hold commas and launches.
template <class E, E... Values, class F>
bool dispatch(E value, F&& f) {
  return ((value == Values ? (f(std::integral_constant<E, Values>{}), true) : false) || ...);
}

}  // namespace whylight
