"""An endpoint of SageMaker hosting: planned as a pure function, then applied, looked at, rolled back, destroyed.

Plain boto3; deploy/sagemaker.py is its front. Knows nothing of what a model answers.
"""
