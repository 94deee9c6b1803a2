"""Models from hubs: what somebody asks for, what a hub says there is, and bringing it here whole or not at all."""
