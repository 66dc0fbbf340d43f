"""The ``vllm`` back-end: sentences by vLLM servers that are fed with image embeddings.

The rig keeps the projector (a few million weights) and sends what it makes of the patches; the
servers keep the language model. ``docs/vllm.md`` says how to start them.

Theory of operation
-------------------
Each population of a window is one request, a streamed chat completion. All of them are tasks of
one asyncio loop, which runs inside `VllmNarrator.step` and nowhere else, for some 20 ms at a time.
So there is no thread and no lock; between two steps the kernel's buffers hold what comes.

A server that fails a request rests, longer each time, and is asked for a sentence about nothing
before it is used again. The requests that it failed begin anew elsewhere.
"""
