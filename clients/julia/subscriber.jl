# Print narrations and triggers as they come: julia subscriber.jl [ADDRESS [KEY SERVER_KEY]]
#
# Where the daemon has keys, KEY is the file NAME.key_secret of a pair of one's own, and SERVER_KEY
# the daemon's NAME.key: docs/security.md.
#
# Not tested: written for Julia 1.8 or later, ZMQ.jl 1.3 or later and JSON.jl. Once:
# julia -e 'using Pkg; Pkg.add(["ZMQ", "JSON"])'
# What the fields mean: docs/narration-format.md.
import JSON
import ZMQ

"Return how many messages are missing before one; -1 if it was received before."
function missing_before!(last, topic, message)
    name = split(topic, "."; limit = 2)[2]
    run = chopsuffix(message["id"], "-$name-$(message["seq"])")
    before = get(last, topic, nothing)
    expected = if before === nothing
        message["seq"]
    elseif before[1] == run
        before[2] + 1
    else
        0
    end
    message["seq"] < expected && return -1
    last[topic] = (run, message["seq"])
    return message["seq"] - expected
end

"Return a key of a file that `neurrate keys new` has made."
function read_key(path, kind)
    found = match(Regex("^\\s*$kind\\s*=\\s*\"(.{40})\"", "m"), read(path, String))
    found === nothing && error("$path holds no $kind")
    return String(found[1])
end

"Have a socket connect with a pair of keys, to a daemon with that public one."
function use_keys(socket, key, server_key)
    filemode(key) & 0o077 == 0 || error("others can read it: chmod 600 $key")
    # ZMQ.jl has no names for these options: ZMQ_CURVE_SERVERKEY, _PUBLICKEY, _SECRETKEY of zmq.h.
    for (option, value) in (50 => read_key(server_key, "public-key"),
                            48 => read_key(key, "public-key"), 49 => read_key(key, "secret-key"))
        bytes = Vector{UInt8}(value)
        rc = ZMQ.lib.zmq_setsockopt(socket, option, bytes, length(bytes))
        rc == 0 || error("libzmq has not taken a key")
    end
end

function follow(address, keys...)
    socket = ZMQ.Socket(ZMQ.SUB)
    isempty(keys) || use_keys(socket, keys...)
    # A machine that lost its power has ended no connection: look whether it is there.
    socket.tcp_keepalive, socket.tcp_keepalive_idle = 1, 2
    socket.tcp_keepalive_intvl, socket.tcp_keepalive_cnt = 2, 4
    ZMQ.subscribe(socket, "narration.")
    ZMQ.subscribe(socket, "trigger.")
    ZMQ.connect(socket, address)
    last = Dict{String,Tuple{String,Int}}()  # by topic: run of the daemon, number of the message
    while true
        topic = ZMQ.recv(socket, String)
        message = JSON.parse(ZMQ.recv(socket, String))
        if message["version"] != 1
            @warn "not read, of another version" topic
            continue
        end
        n = missing_before!(last, topic, message)
        n < 0 && continue
        n > 0 && println("missed $n of $topic")
        get(message, "repeat", false) && continue  # sent before we came: a display may show it
        if startswith(topic, "narration.")
            println("$(message["population"]): $(message["text"])")
        else
            println("$(message["name"]) at $(round(message["window"]["frame_s"]; digits = 2)) s")
        end
    end
end

follow((isempty(ARGS) ? ["tcp://127.0.0.1:5571"] : ARGS)...)
