"""What every ServeKit handler shares inside a TorchServe worker.

Shipped whole in every archive, beside the handler. It knows torch, transformers and TorchServe's worker API;
it knows nothing of the kit (archives, deploy, loadtest): in a worker nothing else is there.
"""
