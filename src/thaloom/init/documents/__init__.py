"""What is wished for, as documents of one form: Service, Workspace, Federation."""
