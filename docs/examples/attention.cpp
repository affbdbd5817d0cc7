// The attention core with its gradients in plain C++17, checked with gta_ref by files:
//
//     g++ -std=c++17 -O2 docs/examples/attention.cpp -o attention
//     gta-ref vectors export --suite attention --out vectors
//     mkdir mine && for file in vectors/*.safetensors; do ./attention $file mine/${file#vectors/}; done
//     gta-ref verify mine --against vectors --wanted required
//
// It reads the vectors of dtype float32 and float64.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

// A file of vectors: 8 bytes with the header's length, the header in JSON, then the bytes of all arrays. The header is
// not parsed as JSON: in the files that gta_ref writes, each entry is found by its name.
struct File {
    std::string header, data;

    explicit File(const char* path) {
        std::ifstream stream(path, std::ios::binary);
        std::string all((std::istreambuf_iterator<char>(stream)), {});
        std::uint64_t length = 0;
        if (all.size() < 8) throw std::runtime_error(std::string(path) + ": no such file, or not complete");
        std::memcpy(&length, all.data(), 8);
        header = all.substr(8, length), data = all.substr(8 + length);
    }
    // Numbers of an array's entry, such as "input.q":{"dtype":"F32","shape":[2,4,33,16],"data_offsets":[0,16896]}
    std::vector<long> numbers(const std::string& name, const std::string& key) const {
        std::size_t at = header.find('[', header.find("\"" + key + "\":", header.find("\"input." + name + "\":")));
        std::vector<long> found;
        while (header[at] != ']' && header[at + 1] != ']') {
            char* end = nullptr;
            found.push_back(std::strtol(&header[at + 1], &end, 10)), at = end - header.data();
        }
        return found;
    }
    // Whether there is an array of this name, and of a dtype that begins so.
    bool has(const std::string& name, const std::string& dtype) const {
        return header.find("\"input." + name + "\":{\"dtype\":\"" + dtype) != std::string::npos;
    }
    template <class T> std::vector<T> array(const std::string& name) const {
        const auto offsets = numbers(name, "data_offsets");
        std::vector<T> found((offsets[1] - offsets[0]) / sizeof(T));
        if (!found.empty()) std::memcpy(found.data(), data.data() + offsets[0], offsets[1] - offsets[0]);
        return found;
    }
    // The settings of the case are JSON inside a string, so their quotes are \"; what is at its default is not there.
    bool causal() const { return header.find("\\\"causal\\\": false") == std::string::npos; }
    double scale(long d_k) const {
        const std::string key = "\\\"scale\\\": ";
        const std::size_t at = header.find(key);
        return at == std::string::npos ? 1 / std::sqrt(double(d_k)) : std::strtod(&header[at + key.size()], nullptr);
    }
};

template <class T> struct Tensor {
    std::string name;
    std::vector<long> shape;
    std::vector<T> data;
};

template <class T> std::vector<Tensor<T>> attention(const File& file) {
    const auto q = file.array<T>("q"), k = file.array<T>("k"), v = file.array<T>("v"), d_z = file.array<T>("d_z");
    const auto q_start = file.array<std::int64_t>("q_start"), k_start = file.array<std::int64_t>("k_start");
    const auto k_stop = file.array<std::int64_t>("k_stop");
    const auto q_shape = file.numbers("q", "shape"), k_shape = file.numbers("k", "shape");
    const auto v_shape = file.numbers("v", "shape");
    const long B = q_shape[0], n_q = q_shape[1], N_q = q_shape[2], d_k = q_shape[3];
    const long n_k = k_shape[1], N_k = k_shape[2], n_v = v_shape[1], d_v = v_shape[3];
    const T scale = T(file.scale(d_k));
    const auto d_lse = file.has("d_lse", "F") ? file.array<T>("d_lse") : std::vector<T>(B * n_q * N_q);
    std::vector<T> z(d_z.size()), lse(B * n_q * N_q), d_q(q.size()), d_k_(k.size()), d_v_(v.size());

    for (long b = 0; b < B; ++b)
        for (long m = 0; m < n_q; ++m)      // map m reads key head m / (n_q / n_k) and value head m / (n_q / n_v)
            for (long i = 0; i < N_q; ++i) {
                const long row = (b * n_q + m) * N_q + i;
                const long keys = (b * n_k + m / (n_q / n_k)) * N_k, values = (b * n_v + m / (n_q / n_v)) * N_k;
                const long first = k_start[b];  // the keys that row i sees: [first, last)
                const long last = file.causal() ? std::min<long>(k_stop[b], q_start[b] + i + 1) : k_stop[b];
                if (last <= first) {            // none: z and all gradients stay 0
                    lse[row] = -INFINITY;
                    continue;
                }
                std::vector<T> p(last - first), d_p(last - first);
                T top = -INFINITY, delta = 0;
                double sum = 0;                 // in float, many small weights beside a large one would lose digits
                for (long j = first; j < last; ++j) {
                    T dot = 0;
                    for (long d = 0; d < d_k; ++d) dot += q[row * d_k + d] * k[(keys + j) * d_k + d];
                    top = std::max(top, p[j - first] = dot * scale);
                }
                for (T& x : p) sum += x = std::exp(x - top);
                for (T& x : p) x = T(x / sum);
                lse[row] = T(top + std::log(sum));
                for (long j = first; j < last; ++j) {
                    T dot = 0;
                    for (long d = 0; d < d_v; ++d) {
                        z[row * d_v + d] += p[j - first] * v[(values + j) * d_v + d];
                        dot += d_z[row * d_v + d] * v[(values + j) * d_v + d];
                        d_v_[(values + j) * d_v + d] += p[j - first] * d_z[row * d_v + d];
                    }
                    delta += p[j - first] * (d_p[j - first] = dot);
                }
                for (long j = first; j < last; ++j) {
                    const T d_s = p[j - first] * (d_p[j - first] - delta + d_lse[row]) * scale;
                    for (long d = 0; d < d_k; ++d) {
                        d_q[row * d_k + d] += d_s * k[(keys + j) * d_k + d];
                        d_k_[(keys + j) * d_k + d] += d_s * q[row * d_k + d];
                    }
                }
            }
    return {{"z", {B, n_q, N_q, d_v}, z}, {"lse", {B, n_q, N_q}, lse},
            {"d_q", q_shape, d_q}, {"d_k", k_shape, d_k_}, {"d_v", v_shape, d_v_}};
}

template <class T> void write(const char* path, const std::vector<Tensor<T>>& tensors) {
    std::string header = "{", data;
    for (const auto& x : tensors) {
        header += header == "{" ? "\"" : ",\"";
        header += x.name + "\":{\"dtype\":\"" + (sizeof(T) == 4 ? "F32" : "F64") + "\",\"shape\":[";
        for (std::size_t i = 0; i < x.shape.size(); ++i) header += (i ? "," : "") + std::to_string(x.shape[i]);
        header += "],\"data_offsets\":[" + std::to_string(data.size()) + ",";
        data.append(reinterpret_cast<const char*>(x.data.data()), x.data.size() * sizeof(T));
        header += std::to_string(data.size()) + "]}";
    }
    header += "}";
    header.resize((header.size() + 7) / 8 * 8, ' ');  // the data begin at a multiple of 8 bytes
    const std::uint64_t length = header.size();
    std::ofstream stream(path, std::ios::binary);
    stream.write(reinterpret_cast<const char*>(&length), 8);
    stream << header << data;
}

int main(int count, char** arguments) {
    if (count != 3) return std::cerr << "usage: attention VECTOR RESULT\n", 2;
    try {
        const File file(arguments[1]);
        if (file.has("q", "F32")) write(arguments[2], attention<float>(file));
        else if (file.has("q", "F64")) write(arguments[2], attention<double>(file));
        else throw std::runtime_error(std::string(arguments[1]) + ": expected an attention case in float32 or float64");
    } catch (const std::exception& error) {
        return std::cerr << error.what() << "\n", 1;
    }
}
