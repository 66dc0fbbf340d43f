"""The ``vllm`` back-end: vLLM servers narrate image embeddings that the rig sends them.

The rig keeps the projector (a few million weights) and sends the projected patches; the servers
keep the language model. ``docs/vllm.md`` says how to start them.

Theory of operation
-------------------
Each population of a window is one request, a streamed chat completion. All of them are tasks of
one asyncio loop, which runs inside `VllmNarrator.step` and nowhere else, for some 20 ms at a time;
between two steps the kernel's buffers hold what arrives. One thread projects patches and makes the
requests, population by population, so that each is sent while the next is being made. It gets the
patches and returns bytes, and shares nothing else with the loop, so there is no lock.

A server that fails a request rests, longer each time, and must pass the preflight again (a short
narration of an empty grid) before it is used. The requests that it failed start again on another
server.
"""
