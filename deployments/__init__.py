"""Where it runs: the Ray Serve application, its HTTP face, the client and the command line. No tensor maths here.

`import deployments` is cheap: it loads neither torch nor ray. Import what you need from its modules.
"""
