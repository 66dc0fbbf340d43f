% Print narrations and triggers as they come: subscriber, or subscriber("tcp://127.0.0.1:5571").
%
% Not tested: written for MATLAB R2022a or later, which calls Python. Once, in a terminal, with a
% Python that your MATLAB takes (pyenv shows it):   python -m pip install ./clients/python
% Where the daemon has keys: subscriber(address, "laptop.key_secret", "gpu.key"), a pair of one's own
% and the daemon's public key (docs/security.md).
% The client finds holes and repeats. What the fields mean: docs/narration-format.md.
function subscriber(address, key, server_key)
    arguments
        address (1, 1) string = "tcp://127.0.0.1:5571"
        key (1, 1) string = ""
        server_key (1, 1) string = ""
    end
    topics = py.list({"narration.", "trigger."});
    if key == "" && server_key == ""
        connection = py.neurrate_client.Subscriber(address, topics);
    else
        keys = pyargs("key", key, "server_key", server_key);
        connection = py.neurrate_client.Subscriber(address, topics, keys);
    end
    close_at_end = onCleanup(@() connection.close());
    while true
        message = connection.receive(0.5);  % Control-C works between two calls
        switch class(message)
            case "py.neurrate_client.messages.Narration"
                if ~message.repeat
                    fprintf("%s: %s\n", string(message.population), string(message.text));
                end
            case "py.neurrate_client.messages.Trigger"
                fprintf("%s at %.2f s\n", string(message.name), double(message.window.frame_s));
            case "py.neurrate_client.messages.Lost"
                fprintf("missed %d of %s\n", int64(message.n), string(message.topic));
        end
    end
end
