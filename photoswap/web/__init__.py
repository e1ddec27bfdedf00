"""The page: `photoswap web` in a browser, for one person at a time on their own machine.

    desk      one job at a time: a line, what each job tells while it waits and works, how it is stopped
    uploads   what comes in from a browser: of a known kind, of bounded size, checked before it is decoded
    rooms     a folder for each browser tab, in which everything it makes is kept
    forms     what the controls say, as the command line that repeats it, from which the job itself is made
    shelf     the model, with the concepts that are asked for
    work      learn, invert, swap, a grid of lambdas, the heat of words: the library, told of by a job
    masking   the mask: brush, file or word, one state after another, undone one by one
    drawing   the timeline of what is injected when
    tasks     the drawn world's examples
    page      layout; wiring: which button does what; server: where it listens, and what it never does

Only `page`, `wiring` and `server` know Gradio; everything else is plain and tested without it.
"""
