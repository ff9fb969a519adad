#include "kernels/cuda/algorithm_table.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <fstream>
#include <optional>
#include <sstream>

#include "base/block_hash.h"
#include "base/cat.h"

namespace baton::kernels::cuda {
namespace {

constexpr std::string_view kFirstLine = "baton algorithms 1";
constexpr size_t kMostBytes = size_t{16} << 20;
constexpr const char* kAgain = "make it again: baton tune -m MODEL -o FILE";

uint64_t hash_of(std::string_view text) {
  return root_hash({0x6261746f6e616c67, 0x6f726974686d7331}, text).lo;  // any constant
}

std::string hex(uint64_t value) {
  char out[17];
  std::snprintf(out, sizeof out, "%016llx", static_cast<unsigned long long>(value));
  return out;
}

std::string shape_line(const TunedProduct& p) {
  const ProductShape& s = p.shape;
  return cat("product ", s.n, " ", s.k, " ", s.ldw, " ", s.ldx, " ", s.ldo, " ", s.add ? 1 : 0, " ",
             hex(p.signature), "\n");
}

// Words of one line, taken one after the other.
class Words {
 public:
  explicit Words(std::string_view line) : left_(line) {}
  bool word(std::string_view want) { return take() == want; }
  template <class T>
  bool number(T& out, int base = 10) {
    const std::string_view word = take();
    const auto end = word.data() + word.size();
    const auto [stopped, error] = std::from_chars(word.data(), end, out, base);
    return error == std::errc() && stopped == end && !word.empty();
  }
  std::string_view rest() { return left_; }
  bool done() const { return left_.empty(); }

 private:
  std::string_view take() {
    const size_t end = std::min(left_.find(' '), left_.size());
    const std::string_view word = left_.substr(0, end);
    left_.remove_prefix(std::min(end + 1, left_.size()));
    return word;
  }
  std::string_view left_;
};

class TableParser {
 public:
  TableParser(const std::string& file, std::string_view text) : file_(file), text_(text) {}

  absl::StatusOr<AlgorithmTable> parse() {
    if (text_.size() > kMostBytes) return fail("is larger than a table of algorithms");
    RETURN_IF_ERROR(check_end());
    if (next() != kFirstLine)
      return fail(cat("want '", kFirstLine, "': no table of algorithms, or of another version of baton"));
    RETURN_IF_ERROR(read_tuned_on());
    while (at_ < end_) RETURN_IF_ERROR(read_line());
    for (const TunedProduct& p : table_.products)
      if (p.rows.empty()) return fail(cat("product ", p.shape.text(), " has no algorithm"));
    return std::move(table_);
  }

 private:
  absl::Status fail(std::string_view what) const {
    return absl::InvalidArgumentError(cat(file_, ":", line_, ": ", what, "; ", kAgain));
  }
  std::string_view next() {
    ++line_;
    const size_t end = std::min(text_.find('\n', at_), end_);
    const std::string_view line = text_.substr(at_, end - at_);
    at_ = std::min(end + 1, end_);
    return line;
  }
  // The last line has the hash of all before it: a table that was cut or edited is none.
  absl::Status check_end() {
    const size_t at = text_.rfind("end ");
    if (at == std::string_view::npos ||
        text_.substr(at) != cat("end ", hex(hash_of(text_.substr(0, at))), "\n"))
      return fail("the checksum in the last line is not that of the lines before it: cut off, or changed");
    end_ = at;
    return absl::OkStatus();
  }
  absl::Status read_tuned_on() {
    TunedOn& t = table_.tuned_on;
    Words words(next());
    if (!words.word("device") || !words.number(t.capability) || !words.number(t.processors) || words.done())
      return fail("want 'device CAPABILITY PROCESSORS NAME'");
    t.device = std::string(words.rest());
    Words library(next());
    if (!library.word("library") || !library.number(t.library) || !library.number(t.driver) ||
        !library.done())
      return fail("want 'library VERSION DRIVER'");
    return absl::OkStatus();
  }
  absl::Status read_line() {
    const std::string_view line = next();
    return line.starts_with("rows ") ? read_rows(Words(line)) : read_product(Words(line));
  }
  absl::Status read_product(Words words) {
    TunedProduct p;
    int add = 0;
    ProductShape& s = p.shape;
    if (!words.word("product") || !words.number(s.n) || !words.number(s.k) || !words.number(s.ldw) ||
        !words.number(s.ldx) || !words.number(s.ldo) || !words.number(add) ||
        !words.number(p.signature, 16) || !words.done() || add < 0 || add > 1 || s.n < 1 || s.k < 1)
      return fail("want 'product N K LDW LDX LDO ADD SIGNATURE'");
    s.add = add == 1;
    if (table_.find(s) != nullptr) return fail(cat("product ", s.text(), " stands here twice"));
    table_.products.push_back(std::move(p));
    return absl::OkStatus();
  }
  absl::Status read_rows(Words words) {
    TunedRows rows;
    bool right = words.word("rows") && words.number(rows.most_rows);
    for (uint64_t& word : rows.algorithm.words) right = right && words.number(word, 16);
    if (!right || !words.done() || table_.products.empty()) return fail("want 'rows MOST' and 8 words");
    std::vector<TunedRows>& before = table_.products.back().rows;
    if (rows.most_rows <= (before.empty() ? 0 : before.back().most_rows))
      return fail("want more rows than in the line before");
    before.push_back(rows);
    return absl::OkStatus();
  }

  const std::string& file_;
  const std::string_view text_;
  size_t at_ = 0, end_ = 0;
  int line_ = 0;
  AlgorithmTable table_;
};

}  // namespace

std::string TunedOn::text() const {
  return cat(device, " (sm_", capability, ", ", processors, " SMs), cuBLASLt ", library, ", driver ", driver);
}

const TunedProduct* AlgorithmTable::find(const ProductShape& shape) const {
  const auto found = std::ranges::find(products, shape, &TunedProduct::shape);
  return found == products.end() ? nullptr : &*found;
}

int AlgorithmTable::most_rows() const {
  if (products.empty()) return 0;
  const auto most = [](const TunedProduct& p) { return p.rows.back().most_rows; };
  return most(*std::ranges::min_element(products, {}, most));
}

std::string AlgorithmTable::bits() const {
  std::vector<std::string> lines;
  for (const TunedProduct& p : products) lines.push_back(shape_line(p));
  std::ranges::sort(lines);
  return hex(hash_of(join(lines, "")));
}

absl::Status AlgorithmTable::check(const TunedOn& here) const {
  if (here == tuned_on) return absl::OkStatus();
  return absl::FailedPreconditionError(cat("the algorithms were chosen on ", tuned_on.text(), "; here is ",
                                           here.text(), ", where their bits are not known: ", kAgain,
                                           ", or set numerics: bf16dot"));
}

const Algorithm* algorithm_for(const TunedProduct& product, int rows) {
  for (const TunedRows& entry : product.rows)
    if (rows <= entry.most_rows) return &entry.algorithm;
  return nullptr;
}

std::string table_text(const AlgorithmTable& table) {
  const TunedOn& t = table.tuned_on;
  std::string out = cat(kFirstLine, "\ndevice ", t.capability, " ", t.processors, " ", t.device, "\nlibrary ",
                        t.library, " ", t.driver, "\n");
  for (const TunedProduct& p : table.products) {
    out += shape_line(p);
    for (const TunedRows& rows : p.rows) {
      out += cat("rows ", rows.most_rows);
      for (const uint64_t word : rows.algorithm.words) out += " " + hex(word);
      out += "\n";
    }
  }
  return cat(out, "end ", hex(hash_of(out)), "\n");
}

absl::StatusOr<AlgorithmTable> parse_table(const std::string& file, std::string_view text) {
  return TableParser(file, text).parse();
}

absl::StatusOr<AlgorithmTable> read_table(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  if (!in || !(text << in.rdbuf()))
    return absl::NotFoundError(cat(
        file, ": no such table of algorithms; numerics: invariant wants one: baton tune -m MODEL -o ", file));
  return parse_table(file, text.str());
}

}  // namespace baton::kernels::cuda
