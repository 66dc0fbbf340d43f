# Print narrations and triggers as they come: julia subscriber.jl [ADDRESS]
#
# Not tested: written for Julia 1.8 or later, ZMQ.jl 1 and JSON.jl. Once:
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

function follow(address)
    socket = ZMQ.Socket(ZMQ.SUB)
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

follow(isempty(ARGS) ? "tcp://127.0.0.1:5571" : ARGS[1])
