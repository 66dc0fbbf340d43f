// Print narrations and triggers as they come: ./subscriber [ADDRESS [KEY SERVER_KEY]]
//
// Where the daemon has keys, KEY is the file NAME.key_secret of a pair of one's own, and SERVER_KEY
// the daemon's NAME.key: docs/security.md.
//
// g++ -std=c++17 subscriber.cpp -lzmq -o subscriber
// Debian: apt-get install g++ libzmq3-dev cppzmq-dev nlohmann-json3-dev
// What the fields mean: docs/narration-format.md.
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <zmq.hpp>
#include <zmq_addon.hpp>

using nlohmann::json;

// Numbers the messages of each topic, so that holes and repeats are found.
class Numbering {
 public:
  // Return how many messages are missing before one; -1 if it was received before.
  std::int64_t missing(const std::string& topic, const json& message) {
    const auto id = message.at("id").get<std::string>();
    const auto seq = message.at("seq").get<std::int64_t>();
    const auto run = id.substr(0, id.rfind("-" + topic.substr(topic.find('.') + 1) + "-"));
    const auto before = last_.find(topic);
    auto expected = seq;
    if (before != last_.end()) {
      expected = before->second.first == run ? before->second.second + 1 : 0;
    }
    if (seq < expected) return -1;
    last_[topic] = {run, seq};
    return seq - expected;
  }

 private:
  std::map<std::string, std::pair<std::string, std::int64_t>> last_;  // run of the daemon, seq
};

void print(Numbering& numbering, const std::string& topic, const std::string& payload) {
  const auto message = json::parse(payload);
  if (message.at("version") != 1) throw std::runtime_error("another version");
  const auto n = numbering.missing(topic, message);
  if (n < 0) return;
  if (n > 0) std::cout << "missed " << n << " of " << topic << std::endl;
  if (message.value("repeat", false)) return;  // sent before we came: a display may show it
  if (topic.rfind("narration.", 0) == 0) {
    std::cout << message.at("population").get<std::string>() << ": "
              << message.at("text").get<std::string>() << std::endl;
  } else {
    std::cout << message.at("name").get<std::string>() << " at " << std::fixed
              << std::setprecision(2) << message.at("window").at("frame_s").get<double>() << " s"
              << std::endl;
  }
}

// Return a key of a file that `neurrate keys new` has made.
std::string read_key(const std::string& path, const std::string& kind) {
  std::ifstream file(path);
  for (std::string name, equals, value; file >> name;) {
    if (name != kind) continue;
    if (file >> equals >> value && value.size() == 42) return value.substr(1, 40);  // in quotes
  }
  throw std::runtime_error(path + " holds no " + kind);
}

// Have a socket connect with a pair of keys, to a daemon with that public one.
void use_keys(zmq::socket_t& socket, const std::string& key, const std::string& server_key) {
  using std::filesystem::perms;
  const auto others = std::filesystem::status(key).permissions() &
                      (perms::group_all | perms::others_all);
  if (others != perms::none) throw std::runtime_error("others can read it: chmod 600 " + key);
  socket.set(zmq::sockopt::curve_serverkey, read_key(server_key, "public-key"));
  socket.set(zmq::sockopt::curve_publickey, read_key(key, "public-key"));
  socket.set(zmq::sockopt::curve_secretkey, read_key(key, "secret-key"));
}

int main(int argc, char** argv) try {
  if (argc == 3) throw std::runtime_error("KEY and SERVER_KEY are given together");
  zmq::context_t context;
  zmq::socket_t socket(context, zmq::socket_type::sub);
  if (argc > 3) use_keys(socket, argv[2], argv[3]);
  // A machine that lost its power has ended no connection: look whether it is there.
  socket.set(zmq::sockopt::tcp_keepalive, 1);
  socket.set(zmq::sockopt::tcp_keepalive_idle, 2);
  socket.set(zmq::sockopt::tcp_keepalive_intvl, 2);
  socket.set(zmq::sockopt::tcp_keepalive_cnt, 4);
  socket.set(zmq::sockopt::subscribe, "narration.");
  socket.set(zmq::sockopt::subscribe, "trigger.");
  socket.connect(argc > 1 ? argv[1] : "tcp://127.0.0.1:5571");
  Numbering numbering;
  while (true) {
    std::vector<zmq::message_t> parts;
    if (!zmq::recv_multipart(socket, std::back_inserter(parts)) || parts.size() != 2) continue;
    try {
      print(numbering, parts[0].to_string(), parts[1].to_string());
    } catch (const std::exception& error) {  // another version, or another program
      std::cerr << "not read: " << error.what() << std::endl;
    }
  }
} catch (const std::exception& error) {  // no such address, no such key
  std::cerr << error.what() << std::endl;
  return 2;
}
