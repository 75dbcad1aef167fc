"""What an application imports: names, settings, groups of handlers, clients, encryption."""
